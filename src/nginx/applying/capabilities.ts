/**
 * What an nginx is and can do, read from the words of `nginx -V` and the names in its modules directory. Pure; the
 * process adapter runs the command and lists the directory.
 */

import { MeshError } from '../../errors.ts'
import type { Capabilities } from '../../ports.ts'

/** The oldest nginx whose behaviour the apply protocol was written for (Debian 11, Ubuntu 20.04). */
const MINIMUM_VERSION = '1.18.0'
/** Without these modules an apply cannot be proven. */
const REQUIRED_MODULES = ['http_stub_status']

/** Where `nginx -V` says that dynamic modules lie; undefined when it does not say. */
export function modulesPath(words: string): string | undefined {
  return /--modules-path=(\S+)/.exec(words)?.[1]
}

/** The group of workers when the configuration names no user: as `nginx -V` says, or what nginx is built with by itself. */
export function builtInGroups(words: string): readonly string[] {
  const named = /--group=(\S+)/.exec(words)?.[1] ?? /--user=(\S+)/.exec(words)?.[1]
  return named === undefined ? ['nogroup', 'nobody'] : [named]
}

/**
 * Capabilities from the output of `nginx -V` and the file names in its modules directory.
 * @throws MeshError `nginx_unsupported` when it is too old, lacks a module, or is not nginx.
 */
export function parseCapabilities(words: string, moduleFiles: readonly string[]): Capabilities {
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
  if (/--with-stream(?:\s|$)/m.test(words)) compiled.push('stream')
  const loadable = moduleFiles.flatMap((file) => /^ngx_(\w+)_module\.so$/.exec(file)?.[1] ?? [])
  const modules = [...new Set([...compiled, ...loadable])].toSorted()
  for (const module of REQUIRED_MODULES) {
    if (!modules.includes(module)) {
      throw unsupported(
        `nginx ${version} was built without ${module}_module`,
        'install the distribution’s nginx package',
      )
    }
  }
  return { version, modules }
}

/** Negative, zero or positive, as the first dotted version is before, equal to or after the second. */
function compareVersions(a: string, b: string): number {
  const left = a.split('.').map(Number)
  const right = b.split('.').map(Number)
  for (let index = 0; index < Math.max(left.length, right.length); index += 1) {
    const difference = (left[index] ?? 0) - (right[index] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}

function unsupported(message: string, hint: string): MeshError {
  return new MeshError('nginx_unsupported', message, { hint })
}
