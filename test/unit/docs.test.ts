/**
 * Keeps the documentation true: links resolve, YAML and commands are accepted by the product's own parsers, quoted messages
 * are ones that it can say, and the two reference pages are made from the code. After a change of settings or metrics:
 * npm run test:unit -- docs -u
 */

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { parseSources } from '../../src/cli/resources/documents.ts'
import { parsePolicy, POLICY_KIND } from '../../src/cli/grants/workspace-policy.ts'
import { describeConfig } from '../../src/config/config-schema.ts'
import { loadConfig } from '../../src/config/config.ts'
import { KINDS } from '../../src/core/resources/index.ts'
import type { Kind } from '../../src/core/resources/kind.ts'
import { policyKind } from '../../src/core/resources/policy.ts'
import { createMetrics } from '../../src/metrics.ts'
import { BROTLI, LUA, NEEDS, type Need } from '../../src/nginx/rendering/needs.ts'
import { ROUTE_PATHS } from '../../src/api/routes.ts'
import { meshctl } from '../support/cli.ts'
import { fieldPatterns } from '../support/injection.ts'

const PROJECT = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const read = (file: string): string => readFileSync(join(PROJECT, file), 'utf8')
const markdownIn = (folder: string): string[] =>
  readdirSync(join(PROJECT, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name))
const PAGES = [...markdownIn('.'), ...markdownIn('docs'), ...markdownIn('keys')]
const REGENERATE = 'Made from the code by `npm run test:unit -- docs -u`; do not edit.'

/** The fenced blocks of a page by language. */
function blocksOf(page: string, language: string): string[] {
  const blocks = [...read(page).matchAll(/^```(\w*)\n(.*?)^```$/gms)]
  return blocks.filter(([, tag]) => tag === language).map(([, , text]) => text as string)
}

const withoutBlocks = (text: string): string => text.replaceAll(/^```.*?^```$/gms, '')

/** What is used where it is, and done without where it is not. */
const WHERE_IT_IS = [
  [
    'endpoints, weights of splits, maintenance without a reload',
    'any',
    `\`${LUA}\``,
    'they go through reloads, and status says so',
  ],
  ['brotli, with `compression` of a site', 'any', `\`${BROTLI}\``, 'gzip alone'],
]
/** As the formatter writes it. */
function alignedTable([head = [], ...rows]: readonly (readonly string[])[]): string {
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map((row) => row[column]?.length ?? 0)))
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n')
}
const LUA_WITH_MODSECURITY =
  'ModSecurity’s library brings another Lua along. Whichever of the two modules a master loads first lends its functions to both, and only LuaJIT’s serve both: the other way round the master aborts, at its start and at the reload that adds Lua, though `nginx -t` is content. So Lua is always loaded first, and with ModSecurity wherever it is there. Installed while nginx already runs ModSecurity without it, Lua is left alone until nginx is restarted. All other modules may come and go by reload.'

// ---------------------------------------------------------------------------------------------- links

/** As the usual renderers make anchors of headings. */
function anchorsOf(page: string): Set<string> {
  const headings = [...withoutBlocks(read(page)).matchAll(/^#+ (.*)$/gm)].map(([, text]) => text as string)
  const slug = (text: string): string =>
    text
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-')
  return new Set(headings.map(slug))
}

test.each(PAGES)('every relative link of %s leads somewhere', (page) => {
  const links = [...withoutBlocks(read(page)).matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link as string)
  const broken = links.filter((link) => {
    if (/^https?:/.test(link)) return false
    const [path = '', anchor] = link.split('#')
    const target = path === '' ? page : join(dirname(page), path)
    return !existsSync(join(PROJECT, target)) || (anchor !== undefined && !anchorsOf(target).has(anchor))
  })
  expect(broken).toEqual([])
})

// ---------------------------------------------------------------------------------------------- YAML

/** YAML blocks, and what shell blocks write into YAML files. */
function yamlOf(page: string): string[] {
  const written = blocksOf(page, 'sh').flatMap((text) => [...text.matchAll(/<<'YAML'\n(.*?)^YAML$/gms)])
  return [...blocksOf(page, 'yaml'), ...written.map(([, text]) => text as string)]
}

test.each(PAGES)('every resource in %s is one', (page) => {
  for (const text of yamlOf(page).filter((block) => /^kind:/m.test(block) && !isPolicy(block))) {
    expect(parseSources([{ name: page, text }]).length).toBeGreaterThan(0)
  }
})

const isPolicy = (text: string): boolean => text.includes(`kind: ${POLICY_KIND}\n`)

test.each(PAGES)('every workspace policy in %s is one', (page) => {
  for (const text of yamlOf(page).filter(isPolicy)) expect(parsePolicy(parse(text)).grants.length).toBeGreaterThan(0)
})

test.each(PAGES)('every configuration in %s is one', (page) => {
  const directory = mkdtempSync(join(tmpdir(), 'nxmesh-docs-'))
  try {
    for (const text of yamlOf(page).filter((block) => /^data_dir:/m.test(block))) {
      const file = join(directory, 'config.yaml')
      writeFileSync(file, text.replaceAll(/\b(MESH_ID|KEY_[A-Z])\b/g, 'ab'.repeat(32)))
      expect(loadConfig({ file, env: {} }).dataDir).not.toBe('')
    }
  } finally {
    rmSync(directory, { recursive: true })
  }
})

// ---------------------------------------------------------------------------------------------- commands

/** Command lines of shell blocks, and of code in the text that begins with the program's name. */
function commandsOf(page: string): string[] {
  const shell = [...blocksOf(page, 'sh'), ...blocksOf(page, '')].join('\n')
  const lines = shell.replaceAll(/<<'YAML'\n.*?^YAML$/gms, '').split('\n')
  const inline = [...withoutBlocks(read(page)).matchAll(/`([^`\n]+)`/g)].map(([, code]) => code as string)
  return [...lines, ...inline]
    .flatMap((line) => line.replace(/(^|\s)# .*/, '').split(/&&|\|(?!\|)|;/))
    .map((one) => one.trim())
}

/** The words of a simple shell command; what a substitution would give is a placeholder. */
function wordsOf(command: string): string[] {
  const words = command.replaceAll(/\$\([^)]*\)/g, 'X').match(/(?:"[^"]*"|'[^']*'|[^\s"'])+/g) ?? []
  const redirection = words.findIndex((word) => /^\d?[<>]/.test(word))
  return (redirection === -1 ? words : words.slice(0, redirection)).map((word) => word.replaceAll(/["']/g, ''))
}

const MESHCTL = /^(?:\w+=\S+ )*(?:npm run -s meshctl -- |meshctl )(?!VERB)/

test.each(PAGES)('every meshctl command of %s has a verb and options that exist', async (page) => {
  const commands = commandsOf(page).filter((command) => MESHCTL.test(command) && !command.includes('help VERB'))
  for (const command of commands) {
    const argv = wordsOf(command.replace(MESHCTL, ''))
    // The line is parsed as it is; --help keeps the verb from running.
    const { code, err } = await meshctl([...argv, '--help'], { cwd: PROJECT })
    expect([command, code, err]).toEqual([command, 0, ''])
  }
})

/** Verbs whose next word says what they do. */
const WITH_ACTION = new Set(['secret', 'key', 'node', 'root', 'policy', 'grant'])

/** The texts that stand directly in one array, for each array of a source: what one call of meshctl may be given. */
function arraysOf(source: string): string[][] {
  const found: string[][] = []
  const open: { bracket: string; texts: string[] }[] = []
  for (const [token, text] of source.matchAll(/\/\/.*|\/\*[^]*?\*\/|`[^`]*`|'([^'\n]*)'|[[\](){}]/g)) {
    if (token === '[' || token === '(' || token === '{') open.push({ bracket: token, texts: [] })
    else if (/^[\])}]$/.test(token)) {
      const closed = open.pop()
      if (closed?.bracket === '[' && closed.texts.length > 0) found.push(closed.texts)
    } else if (text !== undefined) open.at(-1)?.texts.push(text)
  }
  return found
}

const LONG: Readonly<Record<string, string>> = { '-z': '--zone', '-w': '--workspace', '-o': '--output', '-f': '--file' }
/** Options that an e2e test may give through the environment, as a person may. */
const AMBIENT = new Set(['--api', '-k'])
const optionsIn = (words: readonly string[]): string[] =>
  words.filter((word) => /^--?[a-z]/.test(word) && !AMBIENT.has(word)).map((word) => LONG[word] ?? word)

test('every command of the runbook has its verb and all of its options in one argument array of an e2e test', () => {
  const files = readdirSync(join(PROJECT, 'test/e2e')).map((file) => join('test/e2e', file))
  const calls = files.flatMap((file) => arraysOf(read(file)))
  const commands = blocksOf('docs/runbook.md', 'sh')
    .flatMap((block) => block.split('\n'))
    .filter((line) => MESHCTL.test(line))
  const unrun = commands.filter((command) => {
    const words = wordsOf(command.replace(MESHCTL, ''))
    const options = optionsIn(words)
    // Options of every verb stand before it, each with its value.
    while (words[0]?.startsWith('-') === true) words.splice(0, 2)
    const verb = words.slice(0, WITH_ACTION.has(words[0] ?? '') ? 2 : 1)
    return !calls.some((call) => {
      const at = call.indexOf(verb[0] as string)
      const given = optionsIn(call)
      return (
        at !== -1 && verb.every((word, index) => call[at + index] === word) && options.every((o) => given.includes(o))
      )
    })
  })
  expect(commands.length).toBeGreaterThan(30)
  expect(unrun).toEqual([])
})

/** Names of the tests in a file. */
const testsIn = (file: string): string[] =>
  [...read(file).matchAll(/\btest(?:\.\w+\([^)]*\))?\('([^'\n]+)'/g)].map(([, name]) => name as string)

test('every threat of security.md is proven by tests that exist, and every test of a threat is there', () => {
  const [, table = ''] = read('docs/security.md').split('## Threats')
  const rows = table.split('\n').filter((line) => /^\| (?!threat|-)/.test(line))
  const proofs = rows.map((row) =>
    [...row.matchAll(/\]\(\.\.\/([^)]+)\) “([^”]+)”/g)].map(([, file, name]) => [file, name]),
  )
  expect(rows.length).toBeGreaterThanOrEqual(15)
  expect(rows.filter((_, index) => proofs[index]?.length === 0)).toEqual([])
  const named = proofs.flat() as [file: string, name: string][]
  expect(named.filter(([file, name]) => !testsIn(file).includes(name))).toEqual([])
  const suites = readdirSync(join(PROJECT, 'test/e2e')).filter((file) => file.startsWith('threats-'))
  const threats = suites.flatMap((file) =>
    testsIn(join('test/e2e', file)).filter((name) => !name.startsWith('before ')),
  )
  expect(threats.length).toBeGreaterThanOrEqual(15)
  expect(threats.filter((name) => !named.some(([, proof]) => proof === name))).toEqual([])
})

describe('what operators read of resources', () => {
  const sectionsOf = (page: string): string[] => read(page).split(/^## /m)
  const sites = sectionsOf('docs/sites.md')
  const of = (...titles: string[]): string[] =>
    [...titles, 'Where a resource applies'].map((title) => {
      const found = sites.find((section) => section.startsWith(`${title}\n`))
      return found ?? expect.fail(`docs/sites.md has no section ${title}`)
    })
  const tls = sectionsOf('docs/tls.md')
  const guides: Readonly<Record<string, readonly string[]>> = {
    Site: [...of('Site', 'Templates', 'Snippets'), ...tls],
    Upstream: of('Upstream', 'Templates'),
    Stream: [...of('Streams'), ...tls],
    ZoneSettings: [...of('Zone settings', 'Snippets', 'Site'), ...tls],
    Template: of('Templates'),
    Certificate: [...of(), ...tls],
  }
  const wordsIn = (sections: readonly string[]): ReadonlySet<string> =>
    new Set(
      sections
        .join('\n')
        .match(/(?<=```yaml\n)[^]*?(?=^```)|`[^`\n]+`/gm)
        ?.join(' ')
        .match(/\w+/g),
    )
  const unnamed = (patterns: readonly string[], sections: readonly string[]): string[] => {
    const words = wordsIn(sections)
    return patterns.filter((pattern) => pattern.split('.').some((part) => /^\w/.test(part) && !words.has(part)))
  }

  test.each(Object.keys(guides))('every field of %s is named beside the others', (kind) => {
    const { schema } = [...KINDS.values()].find((each) => each.kind === kind) as { schema: Kind['schema'] }
    expect(unnamed(fieldPatterns(schema), guides[kind] ?? [])).toEqual([])
  })

  const policies = fieldPatterns(policyKind.schema).map((pattern) => pattern.split('.'))
  const types = [...new Set(policies.flatMap(([type = '', ...below]) => (below.length > 0 ? type : [])))]
  const pages = [...sectionsOf('docs/policies.md').slice(1), ...tls]
  test.each(types.filter((type) => type !== 'nodeSelector'))(
    'every field of a policy of type %s is named in its section',
    (type) => {
      const isOwn = (section: string): boolean => (section.split('\n')[0] ?? '').split(' ').includes(type)
      const own = type === 'mtls' ? tls : pages.filter(isOwn)
      const fields = policies.flatMap(([first, ...below]) => (first === type ? below.join('.') : []))
      expect(unnamed(fields, own)).toEqual([])
    },
  )
})

describe('nginx.md', () => {
  const sections = read('docs/nginx.md').split(/^## /m).slice(1)
  const rowsOf = (section: string): string[] =>
    section.split('\n').filter((line) => /^\| (?!-|field |what )/.test(line))
  /** Without what stands for keys and items. */
  const plain = (path: string): string =>
    path
      .split('.')
      .filter((part) => /^\w/.test(part))
      .join('.')

  /** What a row is about: `a.b`; beside it `.c` is a.c; `a.**` is all below a. What a colon follows is a value. */
  function fieldsIn(row: string): string[] {
    let last = ''
    return [...(row.split('|')[1] ?? '').matchAll(/`([\w.][^`:]*)[^`]*`/g)].map(([, name = '']) => {
      last = name.startsWith('.') ? last.replace(/\.[^.]*$/, name) : name
      return last
    })
  }
  const isAbout = (field: string, pattern: string): boolean =>
    field.endsWith('.**') ? plain(pattern).startsWith(`${plain(field)}.`) : plain(pattern) === plain(field)

  test.each([...KINDS.values()].filter(({ kind }) => kind !== 'Secret'))('names every field of $kind', (kind) => {
    const titles = new RegExp(
      `^(?:${kind.kind.replace(/(?!^)[A-Z]/, (letter) => ` ${letter.toLowerCase()}`)}|Every kind|Reloads|Without)`,
    )
    const named = sections
      .filter((section) => titles.test(section))
      .flatMap(rowsOf)
      .flatMap(fieldsIn)
    // A key that people choose says nothing by itself.
    const patterns = fieldPatterns(kind.schema).filter((pattern) => !pattern.endsWith('.{key}'))
    expect(patterns.filter((pattern) => !named.some((field) => isAbout(field, pattern)))).toEqual([])
  })

  test('names no field that is not there', () => {
    const patterns = [...KINDS.values()].flatMap(({ schema }) => fieldPatterns(schema))
    const named = sections.flatMap(rowsOf).flatMap(fieldsIn)
    const isThere = (field: string): boolean => patterns.some((pattern) => isAbout(field, pattern))
    expect(named.length).toBeGreaterThan(100)
    // What the host's own configuration says begins so.
    expect(named.filter((field) => !field.startsWith('nginx.') && !isThere(field))).toEqual([])
  })

  test('names tests that exist', () => {
    const files = ['contract', 'e2e', 'unit'].flatMap((folder) =>
      readdirSync(join(PROJECT, 'test', folder)).map((name) => join('test', folder, name)),
    )
    /** Quoted texts of a file, those with places for values as expressions. */
    const titlesIn = (name: string): RegExp[] =>
      files
        .filter((file) => file.endsWith(`/${name}.test.ts`))
        .flatMap((file) => [...read(file).matchAll(/(['"`])((?:\\.|(?!\1).)+)\1/g)])
        .map(([, , text = '']) => {
          const plain = text.replace(/\\(['"`])/g, '$1').replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
          return new RegExp(`^${plain.replace(/%[sjd]|\\\$\\\{.*?\\\}|\\\$\w+/g, '.+')}$`)
        })
    const proofs = sections
      .flatMap(rowsOf)
      .flatMap((row) => [...row.matchAll(/`([\w-]+)` > ([^|]+?)(?=; (?:unit |e2e )?`| *\|)/g)])
      .map(([, file = '', title = '']) => ({ file, title: title.replace(/ \(and .*/, '').replace(/^.* > /, '') }))
    expect(proofs.length).toBeGreaterThan(100)
    const isThere = ({ file, title }: (typeof proofs)[0]): boolean => {
      const titles = titlesIn(file)
      const isOne = (text: string): boolean => titles.some((pattern) => pattern.test(text))
      return isOne(title) || title.split('; ').every(isOne)
    }
    expect(proofs.filter((proof) => !isThere(proof))).toEqual([])
  })
})

test('every npm script that a page names exists, and the README has commands to look at', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
  const named = PAGES.flatMap((page) => [...read(page).matchAll(/\bnpm run (?:-s |--silent )?([a-z0-9:-]+)/g)])
  expect(named.filter(([, name]) => scripts[name as string] === undefined).map(([text]) => text)).toEqual([])
  expect(commandsOf('README.md').filter((command) => MESHCTL.test(command)).length).toBeGreaterThan(10)
})

// ---------------------------------------------------------------------------------------------- messages

test('every message that operations.md explains is one that the product can say', () => {
  const sources = readdirSync(join(PROJECT, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => read(join('src', name)))
    .join('\n')
  const tables = [...read('docs/operations.md').matchAll(/^\| (?:reason|it says) .*\n\|[ -|]+\n((?:\|.*\n)+)/gm)]
  expect(tables.length).toBeGreaterThan(3)
  const cells = tables
    .flatMap(([, rows]) => (rows as string).trimEnd().split('\n'))
    .map((row) => row.split('|')[1] ?? '')
  // What nginx says is nginx's.
  const quoted = cells.filter((cell) => !cell.includes('(nginx)')).flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)])
  const unknown = quoted.filter(([, message]) => {
    const parts = (message as string).split('…').map((part) => part.trim())
    return !parts.every((part) => sources.includes(part))
  })
  expect(unknown.map(([, message]) => message)).toEqual([])
})

// ---------------------------------------------------------------------------------------------- reference pages

describe('made from the code', () => {
  test('docs/configuration.md', async () => {
    const settings = describeConfig().map(({ name, env, type, default: value, description }) =>
      [`## \`${name}\``, description, `- ${type}; default \`${value}\`\n- \`${env}\``].join('\n\n'),
    )
    const page = [
      '# Configuration',
      'Every setting of `mesh-node`, as `mesh-node --help` prints them. [config.example.yaml](../config.example.yaml) is the same as a file to start from; `mesh-node check -c FILE` checks one.',
      'YAML < environment < flags (`--nginx.mode=attach`). An empty value is the default. In the environment lists are comma-separated, `mesh.labels` is `name=value,name=value`, and `nodes` is `PUBLIC_KEY@host:port+host:port,...`. An unknown setting is an error that names the nearest known one.',
      REGENERATE,
      ...settings,
    ]
    await expect(`${page.join('\n\n')}\n`).toMatchFileSnapshot(join(PROJECT, 'docs/configuration.md'))
  })

  test('docs/capabilities.md', async () => {
    const rows = Object.values(NEEDS).map(({ what, version, module }: Need) => {
      return [what, version ?? 'any', module === undefined ? '' : `\`${module}\``, 'refused on that host, by name']
    })
    const page = [
      '# What nginx must be able to do',
      'Each node finds the version of its nginx and the modules that are compiled in or lie in its modules directory (`nginx.modules_directory`). Dynamic modules are loaded by the generations that need them, and by no others. What a host cannot do is refused there alone: `meshctl plan` says so before an edit, `meshctl status` after it; other hosts serve it, and a resource that was served before stays as it was.',
      REGENERATE,
      alignedTable([['field', 'nginx from', 'module', 'without it'], ...rows, ...WHERE_IT_IS]),
      '## Lua and ModSecurity',
      LUA_WITH_MODSECURITY,
    ]
    const file = join(PROJECT, 'docs/capabilities.md')
    await expect(`${page.join('\n\n')}\n`).toMatchFileSnapshot(file)
  })

  test('docs/metrics.md', async () => {
    const metrics = await createMetrics({ routes: ROUTE_PATHS }).registry.getMetricsAsJSON()
    const [own, process] = [true, false].map((isOwn) =>
      metrics
        .filter(({ name }) => name.startsWith('nxmesh_') === isOwn)
        .toSorted((a, b) => (a.name < b.name ? -1 : 1))
        .map((metric) => `- \`${metric.name}\` (${String(metric.type)}${labelsOf(metric)}): ${metric.help}`),
    ) as [string[], string[]]
    const page = [
      '# Metrics',
      'What `GET /metrics` serves, in the text format of Prometheus. Base units; `_total` on counters alone; every combination of labels is there from the start, as 0, but for `site` and `upstream`: those that have had requests, 200 of each, the rest as `other`, and only those that the reader may read. What to alert on is in [operations.md](operations.md#logs).',
      REGENERATE,
      '## Of the node',
      own.join('\n'),
      '## Of the process',
      process.join('\n'),
    ]
    expect(own.length).toBeGreaterThan(20)
    await expect(`${page.join('\n\n')}\n`).toMatchFileSnapshot(join(PROJECT, 'docs/metrics.md'))
  })
})

/** Label names with their values; those of routes and of the runtime are too many to list. */
function labelsOf({ name, values }: { name: string; values: readonly { labels: object }[] }): string {
  if (!name.startsWith('nxmesh_')) return ''
  const found = new Map<string, Set<string>>()
  for (const { labels } of values) {
    for (const [label, value] of Object.entries(labels)) {
      if (label !== 'le') found.set(label, (found.get(label) ?? new Set()).add(String(value)))
    }
  }
  return [...found]
    .map(([label, set]) => `; ${label}: ${label === 'route' ? 'of the API' : [...set].join(', ')}`)
    .join('')
}
