/**
 * Dynamic modules that come and go with what needs them, by reload, under requests. Loading the wrong one ends nginx's
 * master, so each order that this host may ever go through is tried on the real one.
 */

import { afterEach, beforeEach, expect, test } from 'vitest'
import { sha256 } from '../../src/core/canonical.ts'
import type { Applier } from '../../src/nginx/applying/apply.ts'
import { mappedFilesOf } from '../../src/nginx/applying/proc.ts'
import { modulePaths } from '../../src/nginx/rendering/needs.ts'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { fetchRoot, freePort, NginxHost, NOTHING } from '../support/nginx-host.ts'

let host: NginxHost
let applier: Applier
let port: number

beforeEach(async () => {
  host = await NginxHost.create({ findsModules: true, liveLane: false })
  port = await freePort()
  applier = await host.booted()
})
afterEach(() => host[Symbol.asyncDispose]())

/** A unit in http that needs a module; it shows in the text that the module is there. */
function user(module: string, text: string): Unit {
  const path = `default/eu/policy/${module.replaceAll('_', '-')}`
  return { path, kind: 'policy', text, digest: sha256(text), needs: [], listeners: [], hosts: [], modules: [module] }
}
const LUA = user('http_lua', 'lua_shared_dict here 1m;\ninit_worker_by_lua_block { ngx.shared.here:set("a", 1) }\n')
const MODSECURITY = user('http_modsecurity', "modsecurity on;\nmodsecurity_rules 'SecRuleEngine On';\n")
const BROTLI = user('http_brotli_filter', 'brotli on;\n')

/** The modules of the master after an apply of the site and these, which has to succeed and keep the master. */
async function modulesAfter(...users: readonly Unit[]): Promise<readonly string[]> {
  const units = [host.site('s', { port }), ...users]
  const capabilities = await host.nginx.capabilities()
  const input = { slice: NOTHING, capabilities, host: host.layout }
  const before = await host.nginx.master()
  const result = await applier.apply(host.request(units, { assemble: (some) => assemble(some, input) }))
  expect(result).toMatchObject({ outcome: 'applied' })
  expect(await host.nginx.master()).toBe(before)
  expect(await fetchRoot(port, 's.test')).toMatchObject({ status: 200 })
  const wanted = modulePaths(new Set(users.flatMap(({ modules = [] }) => modules)), capabilities, host.layout)
  return wanted.map((path) => path.slice(path.lastIndexOf('/') + 1))
}

test('modules come and go by reload, and requests are answered', async () => {
  expect(await modulesAfter(BROTLI)).toEqual(['ngx_http_brotli_filter_module.so'])
  expect(await modulesAfter(LUA, BROTLI)).toHaveLength(3)
  expect(await modulesAfter()).toEqual([])
  const master = await host.master()
  expect((await mappedFilesOf(master)).filter((file) => file.includes('_module.so'))).toEqual([])
  // Lua comes before ModSecurity, whatever came first, since the other order ends the master.
  expect(await modulesAfter(MODSECURITY)).toHaveLength(3)
  expect(await modulesAfter()).toEqual([])
  expect(await modulesAfter(LUA)).toHaveLength(2)
  expect(await modulesAfter(LUA, MODSECURITY)).toHaveLength(3)
})

test('a master that has had ModSecurity without Lua is not given Lua until nginx is restarted', async () => {
  const { modules, dynamic } = await host.nginx.capabilities()
  const { http_lua: lua, ...others } = dynamic
  expect(lua).toContain('ngx_http_lua_module.so')
  const alone = { version: '1.22.1', modules: modules.filter((name) => name !== 'http_lua'), dynamic: others }
  const units = [host.site('s', { port }), MODSECURITY]
  const input = { slice: NOTHING, capabilities: alone, host: host.layout }
  await applier.apply(host.request(units, { assemble: (some) => assemble(some, input) }))
  expect(await host.nginx.capabilities()).toMatchObject({ afterRestart: ['http_lua'] })
  // Also after it was unloaded: its library stays.
  expect(await modulesAfter()).toEqual([])
  expect(await host.nginx.capabilities()).toMatchObject({ afterRestart: ['http_lua'] })
  host.nginx.signal(await host.master(), 'TERM')
  await expect.poll(() => host.nginx.master(), { timeout: 10_000 }).toBeUndefined()
  expect((await host.nginx.capabilities()).dynamic).toEqual(dynamic)
})
