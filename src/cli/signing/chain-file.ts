/**
 * What meshctl remembers of one operator key: its latest envelopes in each workspace of each mesh. So that a node which
 * lags behind gets the ancestors of an edit, and the key does not sign twice in one place; and with it the meshes that the key
 * works in. Used by author.ts and own-mesh.ts.
 */

import { mkdir, open, readFile, realpath, rename } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { z } from 'zod'
import { canonical, sha256 } from '../../core/canonical.ts'
import { envelopeId, parseBody, type WireEnvelope } from '../../core/envelope.ts'
import { MeshError } from '../../errors.ts'
import type { Clock } from '../../ports.ts'

export const CHAIN_FILE_LIMITS = {
  /** Envelopes kept of one chain; older ones are left to the nodes. */
  envelopes: 64,
  bytes: 512 * 1024,
  /** How long another meshctl with the same key is waited for. */
  lockWaitMs: 30_000,
} as const

const FORMAT = z.strictObject({
  version: z.literal(1),
  chains: z.record(z.string(), z.array(z.strictObject({ bytes: z.string(), sigs: z.record(z.string(), z.string()) }))),
})

/** One remembered envelope. */
export interface Remembered {
  readonly id: string
  readonly n: number
  readonly wire: WireEnvelope
}

export class ChainFile {
  readonly path: string
  readonly #chains: Map<string, WireEnvelope[]>
  readonly #lock: Server

  private constructor(path: string, chains: Map<string, WireEnvelope[]>, lock: Server) {
    this.path = path
    this.#chains = chains
    this.#lock = lock
  }

  /**
   * Opens the file for one meshctl at a time; `close` lets the next one in, and so does the end of the process.
   * @throws MeshError `conflict` when another meshctl does not finish.
   */
  static async open(path: string, clock: Clock, signal: AbortSignal): Promise<ChainFile> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 })
    const lock = await lockFor(join(await realpath(dirname(path)), basename(path)), clock, signal)
    try {
      return new ChainFile(path, await load(path), lock)
    } catch (error) {
      lock.close()
      throw error
    }
  }

  /** The remembered envelopes of a chain, oldest first. */
  chain(mesh: string, workspace: string): Remembered[] {
    return (this.#chains.get(`${mesh}/${workspace}`) ?? []).map((wire) => {
      const body = parseBody(wire.bytes)
      return { id: envelopeId(wire.bytes), n: body.type === 'genesis' ? 0 : body.n, wire }
    })
  }

  /** The meshes that the key works in, and whether it has signed there. */
  get meshes(): ReadonlyMap<string, boolean> {
    return meshesOf(this.#chains)
  }

  /** Records a mesh before anything is signed in it. Durable when it resolves. */
  async enter(mesh: string): Promise<void> {
    this.#chains.set(`${mesh}/*`, this.#chains.get(`${mesh}/*`) ?? [])
    await this.#save()
  }

  /** Remembers an envelope. Durable when it resolves: to be awaited before the envelope is sent. */
  async remember(mesh: string, workspace: string, { bytes, sigs }: WireEnvelope): Promise<void> {
    const kept = [...(this.#chains.get(`${mesh}/${workspace}`) ?? []), { bytes, sigs }].slice(
      -CHAIN_FILE_LIMITS.envelopes,
    )
    while (kept.length > 1 && kept.reduce((sum, wire) => sum + wire.bytes.length, 0) > CHAIN_FILE_LIMITS.bytes)
      kept.shift()
    this.#chains.set(`${mesh}/${workspace}`, kept)
    await this.#save()
  }

  /** Forgets envelopes that no node will ever take. */
  async forget(mesh: string, workspace: string, ids: readonly string[]): Promise<void> {
    const kept = (this.#chains.get(`${mesh}/${workspace}`) ?? []).filter(
      ({ bytes }) => !ids.includes(envelopeId(bytes)),
    )
    this.#chains.set(`${mesh}/${workspace}`, kept)
    await this.#save()
  }

  close(): void {
    this.#lock.close()
  }

  async #save(): Promise<void> {
    const temporary = `${this.path}.new`
    try {
      const file = await open(temporary, 'w', 0o600)
      try {
        await file.writeFile(canonical({ version: 1, chains: Object.fromEntries(this.#chains) as never }))
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(temporary, this.path)
    } catch (error) {
      throw new MeshError(
        'store_unwritable',
        `cannot write ${this.path}: ${(error as Error).message}`,
        {
          hint: 'Nothing was sent. Make room, or make the directory writable: meshctl must remember what it signed.',
        },
        error,
      )
    }
  }
}

/** The meshes of a chain file, as `ChainFile.meshes`. Waits for nobody: the file is replaced whole. @throws as `open`. */
export async function meshesIn(path: string): Promise<ReadonlyMap<string, boolean>> {
  return meshesOf(await load(path))
}

function meshesOf(chains: ReadonlyMap<string, readonly WireEnvelope[]>): Map<string, boolean> {
  const meshes = new Map<string, boolean>()
  for (const [name, wires] of chains) {
    const [mesh = ''] = name.split('/')
    meshes.set(mesh, meshes.get(mesh) === true || wires.length > 0)
  }
  return meshes
}

async function load(path: string): Promise<Map<string, WireEnvelope[]>> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Map()
    throw unreadable(path, error)
  }
  try {
    const chains = new Map(Object.entries(FORMAT.parse(JSON.parse(text)).chains))
    for (const wires of chains.values()) for (const { bytes } of wires) parseBody(bytes)
    return chains
  } catch (error) {
    throw unreadable(path, error)
  }
}

function unreadable(path: string, cause: unknown): MeshError {
  return new MeshError(
    'store_corrupt',
    `cannot read ${path}: ${(cause as Error).message}`,
    {
      hint: 'Move it away: then the node alone tells where your edits continue, which is safe once it is in sync with the others.',
    },
    cause,
  )
}

/** A socket in the kernel's abstract name space: gone with its process, so a lock cannot be left behind. */
async function lockFor(path: string, clock: Clock, signal: AbortSignal): Promise<Server> {
  const deadline = clock.monotonic() + CHAIN_FILE_LIMITS.lockWaitMs
  for (;;) {
    const server = createServer()
    const error = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
      server.once('error', resolve)
      server.listen({ path: `\0nxmesh-chain-${sha256(path)}` }, () => resolve(undefined))
    })
    if (error === undefined) return server.unref()
    if (error.code !== 'EADDRINUSE') throw unreadable(path, error)
    if (clock.monotonic() > deadline) {
      throw new MeshError('conflict', 'another meshctl is signing with this key', {
        hint: 'Wait until it is done, or end it.',
      })
    }
    await clock.sleep(50, signal)
  }
}
