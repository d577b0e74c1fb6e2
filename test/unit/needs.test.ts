/**
 * Capabilities and needs: what an nginx says of itself, whether that is enough, and which modules are loaded in what
 * order.
 */

import { describe, expect, test } from 'vitest'
import { modulesPath, parseCapabilities, withoutFatal } from '../../src/nginx/applying/capabilities.ts'
import { firstUnmet, isMet, modulePaths, unsupported, type Need } from '../../src/nginx/rendering/needs.ts'
import { laneObstacle } from '../../src/nginx/rendering/live.ts'
import { DEBIAN_12, LAYOUT, withModules } from '../support/resources.ts'

const words = (version: string, rest = '') =>
  `nginx version: nginx/${version}\nconfigure arguments: --modules-path=/usr/lib/nginx/modules --with-stream=dynamic ` +
  `--with-http_stub_status_module --with-stream_ssl_preread_module --with-http_geoip_module=dynamic ${rest}`

const directory = '/usr/lib/nginx/modules'

describe('capabilities', () => {
  test('are what is built in and what can be loaded', () => {
    const files = ['ngx_stream_module.so', 'ngx_http_lua_module.so', 'ndk_http_module.so', 'README']
    expect(parseCapabilities(words('1.22.1'), directory, files)).toEqual({
      version: '1.22.1',
      modules: ['http_lua', 'http_stub_status', 'ndk_http', 'stream', 'stream_ssl_preread'],
      dynamic: {
        http_lua: `${directory}/ngx_http_lua_module.so`,
        ndk_http: `${directory}/ndk_http_module.so`,
        stream: `${directory}/ngx_stream_module.so`,
      },
    })
    expect(modulesPath(words('1.22.1'))).toBe(directory)
  })

  test('of a host without files of modules are what is compiled in', () => {
    expect(parseCapabilities(words('1.22.1'), directory, [])).toEqual({
      version: '1.22.1',
      modules: ['http_stub_status'],
      dynamic: {},
    })
    const built = words('1.22.1').replace('--with-stream=dynamic', '--with-stream')
    expect(parseCapabilities(built, directory, []).modules).toEqual([
      'http_stub_status',
      'stream',
      'stream_ssl_preread',
    ])
  })

  test('what is compiled in is not loaded too', () => {
    const { modules, dynamic } = parseCapabilities(words('1.22.1', '--with-http_v2_module'), directory, [
      'ngx_http_v2_module.so',
    ])
    expect([modules, dynamic]).toEqual([['http_stub_status', 'http_v2'], {}])
  })

  test('are without Lua while the running nginx has ModSecurity without it', () => {
    const both = withModules('http_lua', 'http_modsecurity', 'ndk_http')
    const withheld = withoutFatal(both, ['nginx', 'libmodsecurity.so.3.0.9', 'liblua5.3.so.0.0.0'])
    expect(withheld).toMatchObject({ afterRestart: ['http_lua'], dynamic: { ndk_http: expect.any(String) } })
    expect(withheld.modules).not.toContain('http_lua')
    expect(unsupported('p', { what: 'x: y', module: 'http_lua' }, withheld).hint).toContain('restart nginx')
    expect(laneObstacle(withheld, LAYOUT)).toContain('restart it')
    expect(withoutFatal(both, ['libluajit-5.1.so.2.1.0', 'libmodsecurity.so.3.0.9'])).toBe(both)
    expect(withoutFatal(both, [])).toBe(both)
    expect(withoutFatal(DEBIAN_12, ['libmodsecurity.so.3'])).toBe(DEBIAN_12)
  })

  test.each([
    [words('1.10.3'), 'nginx 1.10.3 is too old'],
    ['nginx version: nginx/1.22.1\nconfigure arguments:', 'without http_stub_status_module'],
    ['Usage: cat [FILE]', 'this is not nginx'],
  ])('%s is not enough', (text, message) => {
    expect(() => parseCapabilities(text, directory, [])).toThrow(
      expect.objectContaining({ code: 'nginx_unsupported', message: expect.stringContaining(message) }),
    )
  })
})

describe('needs', () => {
  const need: Need = { what: 'x: y', version: '1.25.0', module: 'http_v3' }
  const newer = (...modules: string[]) => ({ ...withModules(...modules), version: '1.27.4' })

  test('of a version and a module are met by both', () => {
    expect(isMet(need, withModules('http_v3'))).toBe(false)
    expect(isMet(need, newer())).toBe(false)
    expect(isMet(need, newer('http_v3'))).toBe(true)
    expect(isMet({ what: 'z', version: '1.22.1' }, DEBIAN_12)).toBe(true)
    expect(firstUnmet([{ what: 'z' }, need], DEBIAN_12)).toBe(need)
  })

  test('that are not met are named with what is lacking', () => {
    expect(unsupported('p', need, DEBIAN_12).message).toBe(
      'x: y needs nginx with its module http_v3; this host has 1.22.1',
    )
    expect(unsupported('p', need, withModules('http_v3'))).toMatchObject({
      message: 'x: y needs nginx with version 1.25.0; this host has 1.22.1',
      hint: 'upgrade nginx on this host',
    })
  })
})

test('modules are loaded once, after what they are built upon, and after those that the configuration names', () => {
  const capabilities = withModules('http_lua', 'ndk_http', 'stream', 'stream_js', 'http_brotli_filter')
  const load = (modules: string[], named: string[] = []) =>
    modulePaths(new Set(modules), capabilities, { ...LAYOUT, modules: named }).map((path) => path.split('/').pop())
  expect(load([])).toEqual([])
  expect(load(['stream_js', 'stream', 'http_lua'])).toEqual([
    'ndk_http_module.so',
    'ngx_http_lua_module.so',
    'ngx_stream_module.so',
    'ngx_stream_js_module.so',
  ])
  // What is compiled in, or unknown, needs no file.
  expect(load(['http_ssl', 'stream_ssl_preread', 'toString'])).toEqual(['ngx_stream_module.so'])
  expect(load(['stream'], ['/opt/ngx_stream_module.so', '/opt/ngx_http_js_module.so'])).toEqual([
    'ngx_stream_module.so',
    'ngx_http_js_module.so',
  ])
})

test('Lua comes with ModSecurity where it is there, and before it', () => {
  const load = (names: string[], modules: string[], named: string[] = []) =>
    modulePaths(new Set(modules), withModules(...names), { ...LAYOUT, modules: named }).map((path) =>
      path.split('/').pop(),
    )
  const lua = ['ndk_http_module.so', 'ngx_http_lua_module.so']
  const modsecurity = 'ngx_http_modsecurity_module.so'
  expect(load(['http_modsecurity'], ['http_modsecurity'])).toEqual([modsecurity])
  const all = ['http_modsecurity', 'http_lua', 'ndk_http']
  expect(load(all, ['http_modsecurity'])).toEqual([...lua, modsecurity])
  expect(load(all, ['http_lua'], [`/opt/${modsecurity}`])).toEqual([...lua, modsecurity])
  expect(
    load(
      all,
      [],
      [modsecurity, ...lua.toReversed()].map((file) => `/opt/${file}`),
    ),
  ).toEqual([...lua, modsecurity])
})
