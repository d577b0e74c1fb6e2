/**
 * Which mesh a key works in: the one that was named, else the one that its chain file has recorded, else the first that it
 * meets. What a node says of itself is compared with that before anything is signed, sealed or opened for it. Used by cli.ts.
 */

import { asMeshError, MeshError } from '../../errors.ts'
import type { Clock } from '../../ports.ts'
import { ChainFile, meshesIn } from './chain-file.ts'

export interface OwnMeshOptions {
  /** The mesh that the operator has named. @throws MeshError `usage`. */
  readonly named: () => string | undefined
  /** Of the key. @throws MeshError when there is none. */
  readonly chainFile: () => Promise<string>
  readonly clock: Clock
  readonly signal: AbortSignal
  readonly notice: (text: string) => void
}

const COMPARE = 'the id that meshctl init printed, mesh.id in the configuration of a host'

export class OwnMesh {
  readonly #options: OwnMeshOptions
  #own: Promise<string> | undefined

  constructor(options: OwnMeshOptions) {
    this.#options = options
  }

  /**
   * To be awaited before the key signs anything for a mesh. The first mesh of a key is recorded.
   * @param seen what the node says. @throws MeshError `denied` when it is another mesh, `usage` when the key has several
   */
  async confirm(seen: string): Promise<void> {
    this.#own ??= this.#find(seen)
    const own = await this.#own
    if (own !== seen) throw otherMesh(seen, own)
  }

  /**
   * The same for what cannot be taken back: the first use of a key is not enough.
   * @throws MeshError `denied` also when the mesh was not named and the key has signed nothing in it
   */
  async confirmSurely(seen: string): Promise<void> {
    const { named, chainFile } = this.#options
    const known = named() === undefined ? await meshesIn(await chainFile()) : undefined
    if (known === undefined || known.size > 0) await this.confirm(seen)
    if (known === undefined || known.get(seen) === true) return
    throw new MeshError(
      'denied',
      `nothing but the asked node says that mesh ${seen} is yours: this key has signed nothing in it`,
      {
        field: '--mesh',
        hint: `A thief’s mesh looks the same. Compare that id with one from elsewhere (${COMPARE}), and give it: --mesh ID or NXMESH_MESH_ID`,
      },
    )
  }

  async #find(seen: string): Promise<string> {
    const { named, chainFile, clock, signal, notice } = this.#options
    const mesh = named()
    if (mesh !== undefined) return mesh
    const path = await chainFile()
    const known = [...(await meshesIn(path)).keys()]
    if (known.length > 0) return theOne(known)
    try {
      const chain = await ChainFile.open(path, clock, signal)
      try {
        // Another meshctl may have been first.
        if (chain.meshes.size > 0) return theOne([...chain.meshes.keys()])
        await chain.enter(seen)
      } finally {
        chain.close()
      }
    } catch (error) {
      const { code, message, details } = asMeshError(error)
      if (code === 'usage') throw error
      const hint = 'Make it writable, or say which mesh is meant: --mesh ID or NXMESH_MESH_ID'
      throw new MeshError(code, message, { ...details, hint }, error)
    }
    notice(`this key works in mesh ${seen} from now on: compare it with ${COMPARE}`)
    return seen
  }
}

function theOne(known: readonly string[]): string {
  const [mesh = '', ...others] = known
  if (others.length === 0) return mesh
  throw new MeshError('usage', `this key works in several meshes:\n  ${known.join('\n  ')}`, {
    field: '--mesh',
    hint: 'Say which one is meant: --mesh ID or NXMESH_MESH_ID',
  })
}

/** For a node that is not of the mesh that is meant. */
export function otherMesh(seen: string, own: string): MeshError {
  return new MeshError('denied', `the node is of mesh ${seen}, and this key works in ${own}`, {
    field: '--mesh',
    hint: 'Nothing was signed. Check --api: the node may be broken into. If you do mean its mesh, say so: --mesh ID or NXMESH_MESH_ID',
  })
}
