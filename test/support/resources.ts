/**
 * Resources for tests of slice and rendering: YAML documents to resource states, a host layout, and one call from YAML
 * to a rendering. States are made without edits; their hash is over path and fields, as in the real ones.
 */

import { parseAllDocuments } from 'yaml'
import { canonical, sha256 } from '../../src/core/canonical.ts'
import type { ResourceState } from '../../src/core/document.ts'
import type { Value } from '../../src/core/envelope.ts'
import type { GrantOf } from '../../src/core/quota.ts'
import { fieldsOf, parseDocument, pathOf } from '../../src/core/resources/index.ts'
import { type Slice, type SliceNode } from '../../src/core/slice.ts'
import { slice } from '../../src/core/slicing.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { ALL_WELL } from '../../src/nginx/rendering/render-upstream.ts'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import { render } from '../../src/nginx/rendering/render.ts'
import type { RenderInput } from '../../src/nginx/rendering/render-input.ts'
import type { Capabilities } from '../../src/ports.ts'

/** nginx of Debian 12, with one package of modules: that of streams. */
export const DEBIAN_12: Capabilities = {
  version: '1.22.1',
  modules: [
    'http_auth_request',
    'http_realip',
    'http_ssl',
    'http_stub_status',
    'http_v2',
    'stream',
    'stream_realip',
    'stream_ssl',
    'stream_ssl_preread',
  ],
  dynamic: { stream: '/usr/lib/nginx/modules/ngx_stream_module.so' },
}

/** The same with these modules to load. */
export function withModules(...names: readonly string[]): Capabilities {
  const file = (name: string) => `/usr/lib/nginx/modules/${name === 'ndk_http' ? '' : 'ngx_'}${name}_module.so`
  return {
    ...DEBIAN_12,
    modules: [...DEBIAN_12.modules, ...names].toSorted(),
    dynamic: { ...DEBIAN_12.dynamic, ...Object.fromEntries(names.map((name) => [name, file(name)])) },
  }
}

export const LAYOUT: HostLayout = {
  directory: '/var/lib/nxmesh/nginx',
  pidFile: '/run/nxmesh/nginx.pid',
  verifySocket: '/run/nxmesh/verify.sock',
  drainFile: '/run/nxmesh/drain',
  defaultHttpPort: 8080,
  workerProcesses: 'auto',
  workerShutdownTimeoutSeconds: 240,
  modules: [],
}

export const EVERYWHERE: SliceNode = { places: [{ workspace: '*', zones: ['eu', 'us'] }], labels: {} }

/** The state of a resource with these fields, created at `at`. */
export function stateOf(path: string, fields: ReadonlyMap<string, Value>, at = 1): ResourceState {
  const hash = sha256(canonical([path, [...fields]]))
  const created = { at, edit: sha256(`${path} ${at}`), by: 'f'.repeat(64) }
  return {
    path,
    exists: true,
    fields,
    writers: new Map(),
    conflicts: new Map(),
    lost: [],
    excessive: [],
    heads: [],
    created,
    hash,
  }
}

/** States of the documents in a YAML text, each created one millisecond after the one before. */
export function statesOf(yaml: string): ResourceState[] {
  return parseAllDocuments(yaml).map((document, index) => {
    const resource = parseDocument(document.toJS())
    return stateOf(pathOf(resource), fieldsOf(resource), index + 1)
  })
}

/** The slice where no grant limits anything. */
export function sliceOf(states: readonly ResourceState[], node: SliceNode = EVERYWHERE): Slice {
  return slice(states, node, UNLIMITED)
}
/** Always the same function, as a node has it. */
const UNLIMITED: GrantOf = () => undefined

/** Slice, rendering and generation of the resources. */
export function renderStates(
  states: readonly ResourceState[],
  changes: Partial<RenderInput> & { node?: SliceNode } = {},
) {
  const { node = EVERYWHERE, ...rest } = changes
  const input: RenderInput = {
    slice: sliceOf(states, node),
    capabilities: DEBIAN_12,
    host: LAYOUT,
    addresses: new Map(),
    ...ALL_WELL,
    secrets: new Map(),
    ...rest,
  }
  const rendering = render(input)
  return { ...rendering, input, generation: assemble(rendering.units, input) }
}

export function renderYaml(yaml: string, changes: Partial<RenderInput> & { node?: SliceNode } = {}) {
  return renderStates(statesOf(yaml), changes)
}
