import { createServer, type Server } from 'node:http'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { luaModules } from '../support/real-nginx.ts'
import { close, listening, ServedDocuments } from '../support/served-documents.ts'

const NAMES = ['stable', 'canary', 'dark'] as const
const USERS = Array.from({ length: 400 }, (_, index) => `user-${index}`)

/** What each user got at first, by the first lane that was tried: hosts with and without the Lua module choose alike. */
let choices: readonly string[] | undefined

describe.each(['reload', 'live'] as const)('splits by the %s lane, on real nginx', (lane) => {
  let backends: Server[] = []
  let served: ServedDocuments

  beforeAll(async () => {
    backends = NAMES.map((name) =>
      createServer((request, response) => {
        const chunks: Buffer[] = []
        request.on('data', (chunk: Buffer) => chunks.push(chunk))
        request.on('end', () => {
          response.setHeader('X-From', name)
          response.end(`${request.method} ${request.url} ${Buffer.concat(chunks).toString()}`)
        })
      }),
    )
    const ports = await Promise.all(backends.map(listening))
    served = await ServedDocuments.start(() => splitYaml(ports), {
      host: { modules: await luaModules(), liveLane: lane === 'live' },
    })
  })
  afterAll(async () => {
    await served?.stop()
    close(backends)
  })

  const get = (path: string, headers: Record<string, string> = {}, sent: { method?: string; body?: string } = {}) =>
    served.get(path, { headers, ...sent })
  const from = async (path: string, headers: Record<string, string> = {}) => {
    const { headers: answered } = await get(path, headers)
    return answered['x-from'] as string
  }
  /** Which backend each user gets, asked one after the other. */
  const everyone = async (path: string, headersOf: (user: string) => Record<string, string>): Promise<string[]> => {
    const answers: string[] = []
    for (const user of USERS) answers.push(await from(path, headersOf(user)))
    return answers
  }
  const byCookie = (user: string) => ({ Cookie: `a=b; session=${user}` })
  const count = (answers: readonly string[], name: string) => answers.filter((answer) => answer === name).length

  test('clients are shared out by weight, and each stays where it is, on every route with that split', async () => {
    const first = await everyone('/', byCookie)
    expect(count(first, 'stable') + count(first, 'canary')).toBe(USERS.length)
    // A quarter of 400; which users these are follows from the text alone, so this never changes by chance.
    expect(count(first, 'canary')).toBeGreaterThan(70)
    expect(count(first, 'canary')).toBeLessThan(130)
    expect(await everyone('/', byCookie)).toEqual(first)
    expect(await everyone('/again/', byCookie)).toEqual(first)
    choices ??= first
    expect(first).toEqual(choices)
  })

  test('more weight brings clients to a target and takes none away from it', async () => {
    const [quarter, half] = [await everyone('/', byCookie), await everyone('/half/', byCookie)]
    expect(count(half, 'canary')).toBeGreaterThan(count(quarter, 'canary'))
    expect(quarter.filter((answer, index) => answer === 'canary' && half[index] !== 'canary')).toEqual([])
  })

  test('without the cookie the header counts, and without both the address', async () => {
    const byHeader = await everyone('/', (user) => ({ 'X-User': user }))
    expect(byHeader).toEqual(await everyone('/', byCookie))
    expect(new Set(await everyone('/', () => ({}))).size).toBe(1)
  })

  test('a header forces, else a cookie; other values do not', async () => {
    expect(await from('/', { 'X-Version': 'dark' })).toBe('dark')
    expect(await from('/', { 'X-Version': 'canary' })).toBe('canary')
    expect(await from('/', { 'X-Version': 'stable', Cookie: 'version=dark' })).toBe('stable')
    expect(await from('/', { Cookie: 'version=dark' })).toBe('dark')
    const usual = await from('/')
    for (const value of ['DARK', 'dark2', 'nothing', '127.0.0.1:1'])
      expect(await from('/', { 'X-Version': value, Cookie: `version=${value}` })).toBe(usual)
  })

  test('a target without weight gets nobody; without any weight the upstream of the proxy gets all', async () => {
    expect(new Set(await everyone('/off/', byCookie))).toEqual(new Set(['dark']))
    expect(new Set(await everyone('/all/', byCookie))).toEqual(new Set(['canary']))
    expect(await from('/off/', { 'X-Version': 'canary' })).toBe('canary')
  })

  test('escapes in paths, prefixes and bodies are as without a split, drained or not', async () => {
    const long = 'kept '.repeat(50_000)
    const asked = () =>
      Promise.all([
        get('/a%2Fb?c=%20d', { 'X-Version': 'canary' }),
        get('/strip/a/b?c=d', { 'X-Version': 'canary' }),
        get('/a%2Fb', { 'X-Version': 'dark' }, { method: 'POST', body: long }),
        get('/when/a%2Fb', { 'X-Beta': '1', 'X-Version': 'canary' }, { method: 'POST', body: long }),
        get('/when/a%2Fb'),
      ])
    const before = await asked()
    expect(before.map(({ body, headers }) => [headers['x-from'], body])).toEqual([
      ['canary', 'GET /a%2Fb?c=%20d '],
      ['canary', 'GET /a/b?c=d '],
      ['dark', `POST /a%2Fb ${long}`],
      ['canary', `POST /when/a%2Fb ${long}`],
      [undefined, 'no beta'],
    ])
    const users = await everyone('/', byCookie)
    await served.whileDrained(async () => {
      const during = await asked()
      expect(during.map(({ body, headers }) => [headers['x-from'], body])).toEqual(
        before.map(({ body, headers }) => [headers['x-from'], body]),
      )
      expect(during.map(({ headers }) => headers.connection)).toEqual(during.map(() => 'close'))
      expect(await everyone('/', byCookie)).toEqual(users)
    })
  })

  test('nothing of this is an error in nginx’s own words', () => {
    expect(served.complaints(/\[error\]/)).toEqual([])
  })
})

function splitYaml(ports: readonly number[]): string {
  const upstreams = NAMES.map(
    (name, index) =>
      `{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: ${name} }, spec: { endpoints: { '127.0.0.1:${ports[index]}': {} } } }`,
  )
  const split = (stable: number, canary: number) =>
    `split: { stable: { upstream: stable, weight: ${stable} }, canary: { upstream: canary, weight: ${canary} }, dark: { upstream: dark, weight: 0 } }, sticky: { cookie: session, header: X-User }, force: { header: X-Version, cookie: version }`
  return `
${upstreams.join('\n---\n')}
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: a }
spec:
  hosts: [a.example]
  routes:
    root: { path: /, proxy: { ${split(3, 1)} } }
    again: { path: /again/, proxy: { ${split(3, 1)} } }
    half: { path: /half/, proxy: { ${split(50, 50)} } }
    all: { path: /all/, proxy: { ${split(0, 7)} } }
    off: { path: /off/, proxy: { upstream: dark, ${split(0, 0)} } }
    strip: { path: /strip/, proxy: { stripPrefix: true, ${split(3, 1)} } }
    when: { path: /when/, when: { headers: { X-Beta: { present: true } } }, proxy: { ${split(3, 1)} } }
    when-not: { path: /when/, return: { status: 200, body: no beta } }
`
}
