/**
 * A mesh of one for whoever tries NxMesh out: what `mesh-node` does without a configuration. Founds the mesh and writes a
 * configuration with meshctl's own verbs, applies the example site, and tells what to try next. Called by mesh-node.ts.
 */

import { existsSync } from 'node:fs'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { createKeyFile, loadKey } from './adapters/identity.ts'
import { systemClock } from './adapters/clock.ts'
import type { Config } from './config.ts'
import { INIT_FILES } from './cli/keys.ts'
import { run } from './cli/run.ts'
import { isName } from './core/names.ts'
import { MeshError } from './errors.ts'

const EXAMPLES = fileURLToPath(new URL('../examples', import.meta.url))
/** Where meshctl looks for the API and the key when it is told nothing. */
const DEFAULT_DIRECTORY = 'data'

export interface Welcome {
  readonly config: Config
  readonly apiPort: number
  /** Whether no edit was ever made in this mesh. */
  readonly isUntouched: boolean
  readonly signal: AbortSignal
  readonly write: (text: string) => unknown
}

export interface Quickstart {
  readonly configFile: string
  /** Applies the example site when the mesh is untouched, and prints what to try next. */
  welcome(options: Welcome): Promise<void>
}

/** Prepares a mesh of one in `directory`, unless it holds one. What an interrupted start left half made is made again. */
export async function quickstart(directory: string): Promise<Quickstart> {
  const configFile = join(directory, 'config.yaml')
  if (!existsSync(configFile)) await found(directory, configFile)
  const ownerKey = join(directory, 'mesh', INIT_FILES.owner)
  return {
    configFile,
    async welcome({ config, apiPort, isUntouched, signal, write }) {
      const api = `http://127.0.0.1:${apiPort}`
      const example = join(EXAMPLES, 'welcome.yaml')
      if (isUntouched) await meshctl(['apply', '-f', example, '--wait', '--api', api, '-k', ownerKey], signal)
      if (!signal.aborted) write(whatNext(config, directory, api))
    },
  }
}

async function found(directory: string, configFile: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const keyFile = join(directory, 'node.key')
  const key = existsSync(keyFile) ? await loadKey({ file: keyFile, env: {} }) : await createKeyFile(keyFile)
  const [drafts, mesh] = [join(directory, 'mesh.new'), join(directory, 'mesh')]
  if (!existsSync(mesh)) {
    await rm(drafts, { recursive: true, force: true })
    const name = hostname().split('.')[0]?.toLowerCase() ?? ''
    await meshctl([
      'init',
      '--dir',
      drafts,
      '--name',
      'home',
      '--node',
      `${key.publicKey}=${isName(name) ? name : 'home'}`,
    ])
    await rename(drafts, mesh)
  }
  const config = {
    private_key_path: keyFile,
    data_dir: directory,
    bind_address: '127.0.0.1',
    mesh: { genesis_file: join(mesh, INIT_FILES.genesis) },
    nginx: { mode: 'own', stop_on_exit: true },
  }
  const comment =
    '# Written by mesh-node, which was started without a configuration; config.example.yaml shows every setting.\n'
  await writeFile(configFile, comment + stringify(config), { mode: 0o600 })
}

/** Runs one command of meshctl in this process, quietly. @throws MeshError with what it said when it fails. */
async function meshctl(argv: readonly string[], signal: AbortSignal = new AbortController().signal): Promise<void> {
  const errors: string[] = []
  const code = await run({
    argv,
    env: {},
    cwd: '.',
    stdin: (async function* none() {})(),
    stdout: { write: () => true },
    stderr: { write: (text) => errors.push(text) },
    clock: systemClock,
    signal,
    runEditor: () => Promise.reject(new Error('there is no terminal')),
  })
  if (code !== 0 && !signal.aborted) throw new MeshError('not_applied', errors.join('').trim())
}

function whatNext(config: Config, directory: string, api: string): string {
  const port = config.nginx.defaultHttpPort
  const isDefault = directory === DEFAULT_DIRECTORY && config.httpBindPort === 3000
  const options = isDefault ? '' : ` --api ${api} -k ${join(directory, 'mesh', INIT_FILES.owner)}`
  return `
A mesh of one runs in ${directory}/. nginx serves http://127.0.0.1:${port}/, the API is at ${api}/health. Try next:

  curl -s http://127.0.0.1:${port}/
  npm run -s meshctl -- status${options}
  npm run -s meshctl -- apply -f examples/hello.yaml --wait${options} && curl -s -H 'Host: hello.example.com' http://127.0.0.1:${port}/

Ctrl-C stops the node and its nginx; the next start goes on where this one stopped.
`
}
