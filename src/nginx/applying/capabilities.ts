/**
 * What an nginx is and can do, read from the words of `nginx -V` and the names in its modules directory. Pure; the
 * process adapter runs the command and lists the directory.
 */

import { MeshError } from '../../errors.ts'
import type { Capabilities } from '../../ports.ts'
import { compareVersions, LUA, moduleName } from '../rendering/needs.ts'

/** The oldest nginx whose behaviour the apply protocol was written for (Debian 11, Ubuntu 20.04). */
const MINIMUM_VERSION = '1.18.0'
/** Without these modules an apply cannot be proven. */
const REQUIRED_MODULES = ['http_stub_status']

/** Where `nginx -V` says that dynamic modules lie; undefined when it does not say. */
export function modulesPath(words: string): string | undefined {
  return /--modules-path=(\S+)/.exec(words)?.[1]
}

/** Where an nginx looks for what relative paths name. */
export interface NginxPaths {
  readonly prefix: string
  /** Its main file, unless it is told another. */
  readonly config: string
  /** Its own modules. */
  readonly modules: string
}

/** As `nginx -V` says, or what nginx is built with by itself. Directories without a final slash. */
export function builtInPaths(words: string): NginxPaths {
  const prefix = (/--prefix=(\S+)/.exec(words)?.[1] ?? '/usr/local/nginx').replace(/(?<=.)\/+$/, '')
  const config = /--conf-path=(\S+)/.exec(words)?.[1] ?? 'conf/nginx.conf'
  const modules = (modulesPath(words) ?? 'modules').replace(/(?<=.)\/+$/, '')
  const below = (path: string): string => (path.startsWith('/') ? path : `${prefix}/${path}`)
  return { prefix, config: below(config), modules: below(modules) }
}

/** The group of workers when the configuration names no user: as `nginx -V` says, or what nginx is built with by itself. */
export function builtInGroups(words: string): readonly string[] {
  const named = /--group=(\S+)/.exec(words)?.[1] ?? /--user=(\S+)/.exec(words)?.[1]
  return named === undefined ? ['nogroup', 'nobody'] : [named]
}

/**
 * Capabilities from the output of `nginx -V` and the file names in its modules directory, whose path names them.
 * @throws MeshError `nginx_unsupported` when it is too old, lacks a module, or is not nginx.
 */
export function parseCapabilities(words: string, directory: string, moduleFiles: readonly string[]): Capabilities {
  // OpenResty says `openresty/1.21.4.1`, whose first three numbers are those of the nginx inside.
  const version = /(?:nginx|openresty)\/(\d+\.\d+\.\d+)/.exec(words)?.[1]
  if (version === undefined) {
    throw unsupported(
      `this is not nginx: -V said ${JSON.stringify(words.slice(0, 200))}`,
      'set nginx.binary to the path of nginx',
    )
  }
  if (compareVersions(version, MINIMUM_VERSION) < 0) {
    throw unsupported(`nginx ${version} is too old`, `upgrade nginx to ${MINIMUM_VERSION} or later`)
  }
  const compiled = [...words.matchAll(/--with-(\w+)_module(=dynamic)?/g)]
    // What was built apart is there only when its file is.
    .filter(([, , dynamic]) => dynamic === undefined)
    .map(([, name]) => name as string)
  for (const [, whole] of words.matchAll(/--with-(stream|mail)(?=\s|$)/gm)) compiled.push(whole as string)
  const files = moduleFiles.flatMap((file): [string, string][] => {
    const name = moduleName(file)
    return name === undefined || compiled.includes(name) ? [] : [[name, `${directory}/${file}`]]
  })
  const dynamic = Object.fromEntries(files.toSorted(([a], [b]) => (a < b ? -1 : 1)))
  const modules = [...new Set([...compiled, ...Object.keys(dynamic)])]
    // What is compiled into the file of another module is not there without it.
    .filter((name, _, all) => all.includes(/^(?:stream|mail)(?=_)/.exec(name)?.[0] ?? name))
    .toSorted()
  for (const module of REQUIRED_MODULES) {
    if (!modules.includes(module)) {
      throw unsupported(
        `nginx ${version} was built without ${module}_module`,
        'install the distribution’s nginx package',
      )
    }
  }
  return { version, modules, dynamic }
}

/**
 * Without the modules whose loading would end the running nginx: Lua, once its master has had ModSecurity without it (see
 * LUA_FIRST in src/nginx/rendering/needs.ts). What a library brought along stays in the master though no configuration loads it.
 * @param mapped names of the files in the memory of the running master; none while nothing runs
 */
export function withoutFatal(capabilities: Capabilities, mapped: readonly string[]): Capabilities {
  const has = (pattern: RegExp): boolean => mapped.some((file) => pattern.test(file))
  const fatal = has(/^(?:libmodsecurity|liblua5)/) && !has(/^libluajit|^ngx_http_lua_module/)
  const afterRestart = fatal ? [LUA].filter((name) => Object.hasOwn(capabilities.dynamic, name)) : []
  if (afterRestart.length === 0) return capabilities
  const dynamic = Object.entries(capabilities.dynamic).filter(([name]) => !afterRestart.includes(name))
  const modules = capabilities.modules.filter((name) => !afterRestart.includes(name))
  return { ...capabilities, modules, dynamic: Object.fromEntries(dynamic), afterRestart }
}

function unsupported(message: string, hint: string): MeshError {
  return new MeshError('nginx_unsupported', message, { hint })
}
