import { expect, test } from 'vitest'
import { readTree, type ConfigFile } from '../../src/nginx/importing/includes.ts'
import { parse, toText } from '../../src/nginx/importing/parse.ts'

function one(text: string) {
  const [first, ...rest] = parse(text, 'nginx.conf')
  expect(rest).toEqual([])
  return first
}

test.each([
  ['return 403 "no } way; {x";', 'return', ['403', 'no } way; {x']],
  ['set $x "a \\"b\\" \\\\";', 'set', ['$x', 'a "b" \\']],
  [`log_format main '$a "$b" '\n   'rest';`, 'log_format', ['main', '$a "$b" ', 'rest']],
  ['set $a ${host}x;', 'set', ['$a', '${host}x']],
  ['set $a b#c;', 'set', ['$a', 'b#c']],
  ['server_name "~^(?<u>\\w{1,3})\\.example$" a.example;', 'server_name', ['~^(?<u>\\w{1,3})\\.example$', 'a.example']],
  ['return 200 "";', 'return', ['200', '']],
  ['return 200 a\u00a0b\f;', 'return', ['200', 'a\u00a0b\f']],
  ['set $a \u00a0b;', 'set', ['$a', '\u00a0b']],
  ["return 200 'two\nlines';", 'return', ['200', 'two\nlines']],
])('reads %s', (text, name, args) => {
  expect(one(text)).toMatchObject({ name, args })
})

test('keeps the order of directives that alternate', () => {
  const { block = [] } = one('location / { deny 10.0.0.1; allow 10.0.0.0/8; deny all; }') ?? {}
  expect(block.map(({ name, args }) => [name, ...args])).toEqual([
    ['deny', '10.0.0.1'],
    ['allow', '10.0.0.0/8'],
    ['deny', 'all'],
  ])
})

test('reads a condition whose quote a parenthesis follows', () => {
  const found = one('if ($http_user_agent ~* "bot; {2}") { return 403; }')
  expect(found).toMatchObject({ args: ['($http_user_agent', '~*', 'bot; {2}', ')'], block: [{ name: 'return' }] })
})

test('ends a block of Lua where Lua does', () => {
  const lua = ` local t = {a = 1} -- } comment
    ngx.say("}", '{', [[ } ]]) --[==[ } ]==] `
  const found = parse(`location /l { content_by_lua_block {${lua}} }\nnext on;`, 'nginx.conf')
  expect(found).toMatchObject([{ block: [{ name: 'content_by_lua_block', lua }] }, { name: 'next' }])
})

test('tells the line of a directive, comments and texts of several lines counted', () => {
  const found = parse(`# one\na 'x\ny';\n\nb {\n  # c\n  d; }\n`, 'nginx.conf')
  expect([found[0]?.line, found[1]?.line, found[1]?.block?.[0]?.line]).toEqual([2, 5, 7])
})

test('writes back what it read, with the quotes as they were', () => {
  const text = `a "x y" 'z';\nif ($b ~ "c;") {\n    d \${e}f;\n    content_by_lua_block { x = {} }\n}\n`
  // A space before ) changes nothing: nginx reads two words either way.
  expect(toText(parse(text, 'f'))).toBe(text.replace('"c;")', '"c;" )'))
})

test.each([
  ['a b', 'nginx.conf:1: a has no ; or {'],
  ['\na "b;', 'nginx.conf:2: a quote is not closed'],
  ['a "b"c;', 'nginx.conf:1: there is no space after "b"'],
  ['a { b;', 'nginx.conf:1: a } is missing'],
  ['a; }', 'nginx.conf:1: there is a } too many'],
  [';', 'nginx.conf:1: there is a ; without a directive before it'],
  ['x_by_lua_block { "}" ', 'nginx.conf:1: a block of Lua is not closed'],
  ['a {'.repeat(40), 'nginx.conf:1: blocks are nested over 32 levels deep'],
])('finds fault with %s', (text, message) => {
  expect(() => parse(text, 'nginx.conf')).toThrow(message)
})

function lookupIn(files: Readonly<Record<string, string>>) {
  return (pattern: string): ConfigFile[] => {
    const expression = new RegExp(`^${pattern.replaceAll('.', '\\.').replaceAll('*', '[^/]*')}$`)
    const names = Object.keys(files).filter((path) => expression.test(path))
    return names.toSorted().map((path) => ({ path, text: files[path] as string }))
  }
}

test('replaces includes by what they mean, from the directory of the main file wherever they stand', () => {
  const lookup = lookupIn({
    '/etc/nginx/sites/b.conf': 'server { include snippets/x; }',
    '/etc/nginx/sites/a.conf': 'server { listen 80; }',
    '/etc/nginx/snippets/x': 'listen 81;',
  })
  const main = { path: '/etc/nginx/nginx.conf', text: 'http { include sites/*.conf; include none/*; } ' }
  expect(toText(readTree(main, lookup))).toBe(
    'http {\n    server {\n        listen 80;\n    }\n    server {\n        listen 81;\n    }\n}\n',
  )
})

test('says which include names no file, and which includes itself', () => {
  const lookup = lookupIn({ '/n/self': 'include self;' })
  expect(() => readTree({ path: '/n/c', text: '\ninclude gone;' }, lookup)).toThrow(
    '/n/c:2: there is no file gone to include',
  )
  expect(() => readTree({ path: '/n/c', text: 'include self;' }, lookup)).toThrow('/n/self:1: /n/self includes itself')
})
