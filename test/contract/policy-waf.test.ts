import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { GuardedHost, type Ground } from '../support/guarded-host.ts'
import { DEBIAN_12 } from '../support/resources.ts'

/** Where Debian's packages put them. */
const MODSECURITY = '/usr/lib/nginx/modules/ngx_http_modsecurity_module.so'
const CRS = '/usr/share/modsecurity-crs'

const INJECTION = "id=1'%20OR%20'1'='1"
const SCRIPT = 'q=%3Cscript%3Ealert(1)%3C/script%3E'

describe('rules against attacks, on real nginx without ModSecurity', () => {
  let host: GuardedHost

  beforeAll(async () => {
    host = await GuardedHost.start(rulesYaml)
  })
  afterAll(() => host?.stop())

  test.each(EVERYTHING)('%s is guarded by them, drained or not', async (_, path, status, headers) => {
    const before = host.asked
    expect(await host.get('own', `${path}?x=../../etc/passwd`, { headers })).toMatchObject({ status: 403 })
    expect(await host.drained('own', `${path}?x=../../etc/passwd`, { headers })).toMatchObject({
      status: 403,
      headers: { connection: 'close' },
    })
    expect(host.asked).toBe(before)
    expect(await host.get('own', path, { headers })).toMatchObject({ status })
  })

  test.each([
    ['its method', '/fixed?method', { method: 'TRACK' }, 'method'],
    ['its path, whatever the case', '/a/.GIT/config', {}, 'dotfiles'],
    ['its path, however it is escaped', '/a/%2eg%69t/config', {}, 'dotfiles'],
    ['its path, however long the way', '/b/../a/./.git/config', {}, 'dotfiles'],
    ['its path, with a line feed in it', '/a%0a/.git/config', {}, 'dotfiles'],
    ['its user agent', '/fixed?agent', { headers: { 'User-Agent': 'SQLmap/1.7' } }, 'scanners'],
    ['a header', '/fixed?header', { headers: { 'X-Log4': 'a ${jndi:ldap://x}' } }, 'jndi'],
  ])('a request is refused by %s, and the access log names the rule', async (_, path, asked, rule) => {
    expect(await host.get('own', path, asked)).toMatchObject({ status: 403 })
    expect(await host.logged(path)).toMatchObject({ refused_by: `default/*/policy/own#${rule}`, would_refuse: '' })
  })

  test('an attack that is padded until nginx gives up on the expression is refused all the same', async () => {
    expect(await host.get('own', `/fixed?q=select+x+from+y+where+a=1${'fromwhere'.repeat(200)}`)).toMatchObject({
      status: 403,
    })
    expect(await host.get('own', `/fixed?q=${'x'.repeat(1800)}`)).toMatchObject({ status: 200 })
  })

  test('no text keeps a worker busy: what takes too many steps is refused, rule by rule', async () => {
    // PCRE does not even begin where a letter is missing.
    const path = `/?d0123456789${'abc'.repeat(1700)}`
    expect(await host.get('slow', path)).toMatchObject({ status: 403 })
    expect(await host.logged(path)).toMatchObject({ refused_by: 'default/*/policy/slow#r10' })
    expect(host.gaveUp()).toBeGreaterThanOrEqual(64)
    for (const query of ['abc'.repeat(5), 'x'.repeat(5000), 'id='.repeat(1500), `${'w'.repeat(6000)}=`])
      expect(await host.get('slow', `/?${query}`)).toMatchObject({ status: 200 })
  })

  test('nothing hides behind what nginx takes for the end of the path', async () => {
    for (const path of ['/proxy/x#/.git/config', '/proxy/?a=1#&b=../../', '/fixed#'])
      expect(await host.get('own', path)).toMatchObject({ status: 400 })
  })

  test('all that a rule says has to hold', async () => {
    expect(await host.get('own', '/admin/', { method: 'POST' })).toMatchObject({ status: 403 })
    expect(await host.get('own', '/admin/')).toMatchObject({ status: 404 })
    expect(await host.get('own', '/other/', { method: 'POST' })).toMatchObject({ status: 404 })
  })

  test('a rule that only detects, and a policy that does, refuse nothing and say so', async () => {
    expect(await host.get('own', '/fixed?debug=1')).toMatchObject({ status: 200 })
    expect(await host.logged('/fixed?debug=1')).toMatchObject({
      refused_by: '',
      would_refuse: 'default/*/policy/own#debug',
    })
    expect(await host.get('watched', '/?evil')).toMatchObject({ status: 200 })
    expect(await host.logged('/?evil')).toMatchObject({ refused_by: '', would_refuse: 'default/*/policy/watched#evil' })
    expect(await host.get('off', '/?evil')).toMatchObject({ status: 200 })
    expect(await host.logged('/?evil')).toMatchObject({ refused_by: '' })
  })
})

describe('the Core Rule Set, on real nginx with ModSecurity', () => {
  let host: GuardedHost

  beforeAll(async () => {
    host = await GuardedHost.start(crsYaml, {
      capabilities: { ...DEBIAN_12, modules: [...DEBIAN_12.modules, 'http_modsecurity'] },
      host: { modules: [MODSECURITY], crsDirectory: CRS },
    })
  })
  afterAll(() => host?.stop())

  test.each(EVERYTHING)('an attack on %s is refused, drained or not', async (_, path, status, headers) => {
    const before = host.asked
    for (const query of [INJECTION, SCRIPT]) {
      expect(await host.get('guarded', `${path}?${query}`, { headers })).toMatchObject({ status: 403 })
      expect(await host.drained('guarded', `${path}?${query}`, { headers })).toMatchObject({
        status: 403,
        headers: { connection: 'close' },
      })
    }
    expect(host.asked).toBe(before)
    expect(await host.get('guarded', `${path}?q=harmless`, { headers })).toMatchObject({ status })
    expect(await host.drained('guarded', `${path}?q=harmless`, { headers })).toMatchObject({ status })
    expect(await host.logged(`${path}?${SCRIPT}`)).toMatchObject({
      status: '403',
      refused_by: 'default/*/policy/guarded',
    })
  })

  test('an attack in a body is refused, and a harmless body comes through whole', async () => {
    const headers = { 'Content-Type': 'application/x-www-form-urlencoded' }
    const post = (body: string) => host.get('guarded', '/proxy/', { method: 'POST', headers, body })
    expect(await post(SCRIPT)).toMatchObject({ status: 403 })
    expect(await post(`text=${'harmless+'.repeat(20_000)}`)).toMatchObject({ status: 200 })
    const json = {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: '{"q":"<script>alert(1)</script>"}',
    }
    expect(await host.get('guarded', '/proxy/', json)).toMatchObject({ status: 403 })
  })

  test('detecting refuses nothing, and the error log tells what was found, by the request of the access log', async () => {
    expect(await host.get('watched', `/?watched&${SCRIPT}`)).toMatchObject({ status: 200 })
    const { request_id } = await host.logged(`/?watched&${SCRIPT}`)
    expect(host.errors()).toContain(`[unique_id "${request_id}"]`)
    expect(host.errors()).toContain('[id "941100"]')
  })

  test('an exclusion lets a rule out, for one target or below one path', async () => {
    const refused = async (path: string) => (await host.get('excluding', path)).status === 403
    expect(await refused(`/?${INJECTION.replace('id', 'other')}`)).toBe(true)
    expect(await refused(`/?${INJECTION}`)).toBe(false)
    expect(await refused(`/?${INJECTION}&${INJECTION.replace('id', 'other')}`)).toBe(true)
    expect(await refused('/blog/?q=/etc/passwd')).toBe(false)
    expect(await refused('/?q=/etc/passwd')).toBe(true)
    expect(await refused('/blog/../?q=/etc/passwd')).toBe(true)
    expect(await refused('/blog/%2e%2e/?q=/etc/passwd')).toBe(true)
  })

  test('more paranoia finds more, and a higher threshold refuses less', async () => {
    const odd = '/?q=a%27b%27c%27d%27e%22f%22g%22'
    expect(await host.get('guarded', odd)).toMatchObject({ status: 404 })
    expect(await host.get('paranoid', odd)).toMatchObject({ status: 403 })
    expect(await host.get('patient', `/?${SCRIPT}`)).toMatchObject({ status: 404 })
  })

  test('an answer that tells of errors inside is refused where answers are looked at', async () => {
    // Its head may be on the way already, so that nothing is left but to break off.
    await expect(host.get('looking', '/leak')).rejects.toThrow('socket hang up')
    expect(await host.logged('/leak')).toMatchObject({ status: '500', bytes: '0', upstream_status: '200' })
    expect(await host.get('looking', '/proxy/')).toMatchObject({ status: 200 })
    expect(await host.get('guarded', '/leak')).toMatchObject({ status: 200 })
  })

  test('a route may be more patient than its site, or ask nothing', async () => {
    expect(await host.get('mixed', `/?${SCRIPT}`)).toMatchObject({ status: 403 })
    expect(await host.get('mixed', `/patient?${SCRIPT}`)).toMatchObject({ status: 200 })
    expect(await host.get('mixed', `/off?${SCRIPT}`)).toMatchObject({ status: 200 })
    expect(await host.get('mixed', `/without?${SCRIPT}`)).toMatchObject({ status: 200 })
  })

  test('a site with off is not asked', async () => {
    expect(await host.get('off', `/?${SCRIPT}`)).toMatchObject({ status: 404 })
  })
})

/** What a site can answer with: what it is, a path, its status, headers. */
const EVERYTHING: [what: string, path: string, status: number, headers: Record<string, string>][] = [
  ['a proxy', '/proxy/', 200, {}],
  ['a fixed answer', '/fixed', 200, {}],
  ['a redirect', '/moved', 302, {}],
  ['an index file', '/files/', 200, {}],
  ['an application in the browser', '/app/any/where', 200, {}],
  ['a proxy with conditions', '/when/', 200, { 'X-Beta': '1' }],
  ['a fixed answer with conditions', '/when/', 200, { 'X-Beta': '2' }],
  ['what is left of routes with conditions', '/when/', 404, {}],
  ['a path without a route', '/nothing', 404, {}],
]

const site = (name: string, policy: string, routes = '{}') => `
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: ${name} }
spec: { hosts: [${name}.example], policies: [${policy}], routes: ${routes} }
`
const policy = (name: string, spec: string) => `
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: ${name} }
spec:
  waf: ${spec}
`
const upstream = (backend: number) => `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: app }
spec: { endpoints: { '127.0.0.1:${backend}': {} } }
`
const everything = (root: string) =>
  `
    proxy: { path: /proxy/, proxy: { upstream: app } }
    leak: { path: /leak, proxy: { upstream: app } }
    fixed: { path: /fixed, return: { status: 200, body: fixed } }
    moved: { path: /moved, redirect: { to: https://away.example/ } }
    files: { path: /files/, static: { root: ${root} } }
    app: { path: /app/, static: { root: ${root}, index: files/index.html, spa: true } }
    beta: { path: /when/, when: { headers: { X-Beta: { exact: '1' } } }, proxy: { upstream: app } }
    gamma: { path: /when/, when: { headers: { X-Beta: { exact: '2' } } }, return: { status: 200, body: beta } }
`
    .trim()
    .replace(/\n */g, ', ')
const HERE = '{ root: { path: /, return: { status: 200, body: here } } }'

const rulesYaml = ({ backend, root }: Ground) => `${upstream(backend)}
${policy(
  'own',
  `
    mode: block
    rules:
      method: { methods: [TRACE, TRACK] }
      dotfiles: { path: '/\\.git(?:/|$)' }
      traversal: { query: '\\.\\./\\.\\./' }
      scanners: { userAgent: 'sqlmap|nikto' }
      jndi: { headers: { X-Log4: '\\$\\{jndi:' } }
      admin: { methods: [POST], path: '^/admin/' }
      debug: { query: 'debug=', detectOnly: true }
      sql: { query: 'select.*from.*where.*=' }
`,
)}
${policy('watched', '{ mode: detect, rules: { evil: { query: evil } } }')}
${policy('off', "{ mode: 'off', rules: { evil: { query: evil } } }")}
${policy(
  'slow',
  `{ mode: block, rules: { ${Array.from({ length: 64 }, (_, index) => `r${index + 10}: { query: 'a.*b.*c.*d${index}' }`).join(', ')} } }`,
)}
${site('slow', 'slow', HERE)}
${site('own', 'own', `{ ${everything(root)} }`)}
${site('watched', 'watched', HERE)}
${site('off', 'off', HERE)}
`

const crsYaml = ({ backend, root }: Ground) => `${upstream(backend)}
${policy('guarded', '{ mode: block, coreRuleSet: {} }')}
${policy('watched', '{ mode: detect, coreRuleSet: {} }')}
${policy('paranoid', '{ mode: block, coreRuleSet: { paranoia: 3 } }')}
${policy('patient', '{ mode: block, coreRuleSet: { inboundThreshold: 100 } }')}
${policy('looking', '{ mode: block, coreRuleSet: { inspectResponses: true } }')}
${site('looking', 'looking', '{ root: { path: /, proxy: { upstream: app } } }')}
${policy('off', "{ mode: 'off', coreRuleSet: {} }")}
${policy(
  'excluding',
  `
    mode: block
    coreRuleSet:
      exclusions:
        id: { rule: 942100, target: 'ARGS:id' }
        files: { rule: 930120, path: /blog/ }
        shells: { rule: 932160, path: /blog/ }
`,
)}
${site('guarded', 'guarded', `{ ${everything(root)} }`)}
${site('watched', 'watched', HERE)}
${site(
  'mixed',
  'guarded',
  `{
    patient: { path: /patient, return: { status: 200 }, policies: [patient] },
    off: { path: /off, return: { status: 200 }, policies: ['off'] },
    without: { path: /without, return: { status: 200 }, withoutPolicies: [guarded] },
  }`,
)}
${site('paranoid', 'paranoid')}
${site('patient', 'patient')}
${site('off', 'off')}
${site('excluding', 'excluding')}
`
