/**
 * Generations on disk: content-addressed objects, one directory for each generation with its nginx.conf and manifest,
 * the `current` symlink, and the list of proven generations. Writes only what is new, never changes a file that is
 * there, reads back by hash. Knows nothing of processes; apply.ts and drift.ts call it.
 */

import { lstat, readdir, readFile, readlink, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { sha256 } from '../../core/canonical.ts'
import { perObject } from '../../core/memo.ts'
import type { Clock } from '../../ports.ts'
import { disk as realDisk, type Access, type Disk } from './disk.ts'
import type { HostLayout } from '../rendering/host-layout.ts'
import { filesOf } from '../rendering/unit-files.ts'
import type { Unit, UnitFile } from '../rendering/unit.ts'

/** A generation's text, as assemble() of render.ts gives it. */
export interface Assembled {
  readonly digest: string
  /** nginx.conf. */
  readonly main: string
  /** Every included file's text by its SHA-256. */
  readonly objects: ReadonlyMap<string, string>
  /** What the objects name beside, each once. */
  readonly files: readonly UnitFile[]
}

/** A generation with the units that it was assembled from. */
export interface Generation extends Assembled {
  readonly units: readonly Unit[]
}

/** One file that is not what the generation says: gone, or with other content. */
export interface Damage {
  readonly path: string
  readonly reason: 'missing' | 'changed'
}

/** A file as it was read. `mark`: what stat() said before, by which a later change is seen; undefined when it may not be. */
interface Hashed {
  readonly hash: string
  readonly mark: string | undefined
}

/** Texts stay out of it: some are secret. */
type FileRecord = Omit<UnitFile, 'text'>

/**
 * nginx's master, which is the daemon's user or root, reads the configuration and binds the socket in private/. Its
 * workers may be another user; they write temporary files, and open the logs anew after one was put aside. To objects/ their
 * group is admitted once there is a file for them.
 */
const FOLDERS: readonly (readonly [name: string, access: Access])[] = [
  ['objects', 'closed'],
  ['generations', 'closed'],
  ['private', 'closed'],
  ['drift', 'closed'],
  ['logs', 'passable'],
  ['temp', 'passable'],
  ['run', 'passable'],
]
/** Proven generations that stay on disk, and with them every object that they name. */
const GENERATIONS_KEPT = 10
/** So long after its last change a file has a mark of its own when it is changed again. */
const SETTLED_MS = 2_000
/** Files written or read at once. */
const PARALLEL = 16

const CACHE_DIRECTORY = /^cache_nxmesh_([0-9a-f]{16})$/

interface ManifestBody {
  readonly v: 1
  readonly digest: string
  /** SHA-256 of nginx.conf. */
  readonly main: string
  /** Every object is the text of a unit. */
  readonly units: readonly (Omit<Unit, 'text' | 'files'> & { readonly files?: readonly FileRecord[] })[]
}

/** The group as which workers read, where they are another user than this process and it may write for them. */
export type WorkerGroup = () => Promise<number | undefined>

export class GenerationStore {
  readonly #directory: string
  readonly #clock: Pick<Clock, 'now'>
  readonly #disk: Disk
  readonly #workerGroup: WorkerGroup
  /** Names in objects/ known to have their right content: written or verified by this process. */
  readonly #objects = new Set<string>()
  /** Names in objects/ of the generations known to be whole on disk. */
  readonly #generations = new Map<string, readonly string[]>()
  /** By path, of the files that were last looked at for damage. */
  #hashed: ReadonlyMap<string, Hashed> = new Map()
  #proven: readonly string[] = []

  constructor(
    layout: Pick<HostLayout, 'directory'>,
    clock: Pick<Clock, 'now'>,
    disk: Disk = realDisk,
    workerGroup: WorkerGroup = () => Promise.resolve(undefined),
  ) {
    this.#workerGroup = workerGroup
    this.#directory = layout.directory
    this.#clock = clock
    this.#disk = disk
  }

  /** Digests of proven generations, newest first, at most ten. */
  get proven(): readonly string[] {
    return this.#proven
  }

  /** Makes the directories, removes what a crash left half-written and reads which generations are proven. */
  async open(): Promise<void> {
    await this.#disk.makeDirectory(this.#directory, 'passable')
    for (const [name, access] of FOLDERS) await this.#disk.makeDirectory(join(this.#directory, name), access)
    for (const folder of ['', 'objects', 'generations']) {
      for (const name of await readdir(join(this.#directory, folder))) {
        if (name.endsWith('.tmp')) await this.#disk.remove(join(this.#directory, folder, name))
      }
    }
    this.#proven = await this.#readProven()
  }

  /** Where a generation's nginx.conf lies. */
  configPath(digest: string): string {
    return join(this.#directory, 'generations', digest, 'nginx.conf')
  }

  #objectPath(name: string): string {
    return join(this.#directory, 'objects', name)
  }

  /** Writes what is not on disk yet, durably. Afterwards the generation can be tested and linked. */
  async stage(generation: Generation): Promise<void> {
    const missing = textsOf(generation, this.#objects)
    const directoryOfObjects = join(this.#directory, 'objects')
    // Somebody may have removed the directory since open().
    if (missing.length > 0) await this.#disk.makeDirectory(directoryOfObjects, 'closed')
    const isForWorkers = missing.some(({ readers }) => readers === 'workers')
    const group = isForWorkers ? await this.#workerGroup() : undefined
    if (group !== undefined) await this.#disk.admit(directoryOfObjects, group)
    await inParallel(missing, async ({ name, text, readers }) => {
      await this.#disk.write(this.#objectPath(name), text, readers === 'workers' ? group : undefined)
    })
    if (missing.length > 0) await this.#disk.syncDirectory(directoryOfObjects)
    for (const { name } of missing) this.#objects.add(name)
    if (this.#generations.has(generation.digest)) return

    const directory = join(this.#directory, 'generations', generation.digest)
    const part = `${directory}.tmp`
    await this.#disk.makeDirectory(join(this.#directory, 'generations'), 'closed')
    await this.#disk.remove(part)
    await this.#disk.makeDirectory(part, 'closed')
    await this.#disk.write(join(part, 'nginx.conf'), generation.main)
    await this.#disk.write(join(part, 'manifest.json'), manifest(generation))
    await this.#disk.syncDirectory(part)
    // Left by an earlier process and not read by this one: what it holds is not known to be right.
    await this.#disk.remove(directory)
    await this.#disk.move(part, directory)
    await this.#disk.syncDirectory(join(this.#directory, 'generations'))
    this.#generations.set(generation.digest, namesIn(generation))
  }

  /** Points `current` at a staged generation. */
  async activate(digest: string): Promise<void> {
    if ((await this.current()) === digest) return
    const path = join(this.#directory, 'current')
    const entry = await lstat(path).catch(() => undefined)
    if (entry !== undefined && !entry.isSymbolicLink()) await this.#setAside(path)
    await this.#disk.link(path, join('generations', digest))
  }

  /** The digest that `current` names; undefined when it is not a symlink to a generation. */
  async current(): Promise<string | undefined> {
    try {
      const target = await readlink(join(this.#directory, 'current'))
      return target === join('generations', basename(target)) ? basename(target) : undefined
    } catch {
      return undefined
    }
  }

  /** Records, durably, that the generation served: what a boot without peers starts from. */
  async recordProven(digest: string): Promise<void> {
    const proven = [digest, ...this.#proven.filter((other) => other !== digest)].slice(0, GENERATIONS_KEPT)
    await this.#disk.write(join(this.#directory, 'proven.json'), `${JSON.stringify(proven)}\n`)
    await this.#disk.syncDirectory(this.#directory)
    this.#proven = proven
  }

  /** The newest proven generation that is whole; else the newest whole one of those on disk; else undefined. */
  async newestIntact(): Promise<Generation | undefined> {
    for (const digest of new Set([...this.#proven, ...(await this.#onDisk())])) {
      const generation = await this.load(digest)
      if (generation !== undefined) return generation
    }
    return undefined
  }

  /** Reads a generation back. Undefined when any of its files is missing or does not match its hash. */
  async load(digest: string): Promise<Generation | undefined> {
    const directory = join(this.#directory, 'generations', digest)
    const body = await this.#manifest(digest)
    const main = await readText(join(directory, 'nginx.conf'))
    if (body === undefined || main === undefined || sha256(main) !== body.main) return undefined
    const texts = new Map<string, string>()
    const named = namesOf(body)
    await inParallel(named, async (name) => {
      const text = await readText(this.#objectPath(name))
      if (text !== undefined && sha256(text) === hashIn(name)) texts.set(name, text)
    })
    if (texts.size !== named.length) return undefined
    const textIn = (name: string) => texts.get(name) ?? ''
    const units = body.units.map(({ files, ...unit }): Unit => {
      const text = textIn(objectName(unit.digest))
      return { ...unit, text, ...(files && { files: files.map((file) => ({ ...file, text: textIn(file.name) })) }) }
    })
    const objects = new Map(units.map((unit) => [unit.digest, unit.text]))
    const files = filesOf(units)
    // As whom the workers run may be another since; what they read is written anew when it is next staged.
    const forWorkers = new Set(files.filter(({ readers }) => readers === 'workers').map(({ name }) => name))
    for (const name of named) if (!forWorkers.has(name)) this.#objects.add(name)
    this.#generations.set(digest, named)
    return { digest, main, objects, files, units }
  }

  /** The files of a generation that are not what they should be. One is hashed again when it was touched since. */
  async damage(generation: Generation): Promise<readonly Damage[]> {
    const directory = join(this.#directory, 'generations', generation.digest)
    const { main, manifest } = hashesOf(generation)
    const expected = new Map([
      [join(directory, 'nginx.conf'), main],
      [join(directory, 'manifest.json'), manifest],
      ...namesIn(generation).map((name): [string, string] => [this.#objectPath(name), hashIn(name)]),
    ])
    const damage: Damage[] = []
    const hashed = new Map<string, Hashed>()
    await inParallel([...expected], async ([path, hash]) => {
      const found = await this.#hash(path)
      if (found === undefined) return void damage.push({ path, reason: 'missing' })
      if (found.hash !== hash) damage.push({ path, reason: 'changed' })
      if (found.mark !== undefined) hashed.set(path, found)
    })
    this.#hashed = hashed
    return damage
  }

  /** Of thousands of files all but a few are as they were; reading them all again would keep a core busy. */
  async #hash(path: string): Promise<Hashed | undefined> {
    try {
      const { ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true })
      const mark = [ino, size, mtimeNs, ctimeNs].join()
      const known = this.#hashed.get(path)
      if (known?.mark === mark) return known
      // Whatever changes it in the same moment of the file system's clock leaves the same mark.
      const isSettled = this.#clock.now() - Number(ctimeNs / 1_000_000n) > SETTLED_MS
      const hash = sha256(await readFile(path, 'utf8'))
      return { hash, mark: isSettled ? mark : undefined }
    } catch {
      return undefined
    }
  }

  /** Writes every damaged file of the generation again. A changed one is moved to drift/<time>-<name> first. */
  async repair(generation: Generation, damage: readonly Damage[]): Promise<void> {
    for (const { path, reason } of damage) {
      if (reason === 'changed') await this.#setAside(path)
    }
    for (const name of namesIn(generation)) {
      if (damage.some(({ path }) => path === this.#objectPath(name))) this.#objects.delete(name)
    }
    const directory = join(this.#directory, 'generations', generation.digest)
    if (damage.some(({ path }) => path.startsWith(`${directory}/`))) this.#generations.delete(generation.digest)
    await this.stage(generation)
  }

  /**
   * Removes generations that are neither proven nor current, objects and directories of caches that no generation names,
   * and old drift files.
   */
  async prune(): Promise<void> {
    const current = await this.current()
    const keep = new Set([...(current === undefined ? [] : [current]), ...this.#proven])
    const named = new Set<string>()
    for (const digest of keep) {
      for (const name of this.#generations.get(digest) ?? namesOf(await this.#manifest(digest))) named.add(name)
    }
    for (const digest of await this.#onDisk()) {
      if (keep.has(digest)) continue
      this.#generations.delete(digest)
      await this.#disk.remove(join(this.#directory, 'generations', digest))
    }
    for (const name of await readdir(join(this.#directory, 'objects'))) {
      if (named.has(name)) continue
      this.#objects.delete(name)
      await this.#disk.remove(join(this.#directory, 'objects', name))
    }
    await this.#pruneCaches([...keep], current)
    const drift = (await readdir(join(this.#directory, 'drift'))).toSorted()
    for (const name of drift.slice(0, -DRIFT_FILES_KEPT)) await this.#disk.remove(join(this.#directory, 'drift', name))
  }

  /**
   * nginx looks after what the current generation has. Of a cache that another kept one has, what it holds goes; its
   * directory stays, since workers that drain may still put something there.
   */
  async #pruneCaches(kept: readonly string[], current: string | undefined): Promise<void> {
    const temp = join(this.#directory, 'temp')
    let left = (await readdir(temp)).filter((name) => CACHE_DIRECTORY.test(name))
    const emptied: string[] = []
    for (const digest of kept) {
      if (left.length === 0) break
      const text = (await readText(join(this.#directory, 'generations', digest, 'manifest.json'))) ?? ''
      // Versions of policies are in the paths of their units.
      const isNamed = (name: string) => text.includes(`#${CACHE_DIRECTORY.exec(name)?.[1]}"`)
      if (digest !== current) emptied.push(...left.filter(isNamed))
      left = left.filter((name) => !isNamed(name))
    }
    const contents = await Promise.all(
      emptied.map(async (name) => (await readdir(join(temp, name)).catch(() => [])).map((inner) => join(name, inner))),
    )
    // It is the workers' own; one that cannot be removed is in nobody's way.
    for (const name of [...left, ...contents.flat()]) await this.#disk.remove(join(temp, name)).catch(() => undefined)
  }

  /** Moves what a person made out of the way, to where they find it. */
  async #setAside(path: string): Promise<void> {
    const time = new Date(this.#clock.now()).toISOString().replaceAll(':', '')
    await this.#disk.move(path, join(this.#directory, 'drift', `${time}-${basename(path)}`))
  }

  async #manifest(digest: string): Promise<ManifestBody | undefined> {
    const body = parseManifest(await readText(join(this.#directory, 'generations', digest, 'manifest.json')))
    return body?.digest === digest ? body : undefined
  }

  /** Generation directories, the last written first. */
  async #onDisk(): Promise<readonly string[]> {
    const names = (await readdir(join(this.#directory, 'generations'))).filter((name) => !name.endsWith('.tmp'))
    const written = await Promise.all(
      names.map(async (name) => {
        const file = await stat(this.configPath(name)).catch(() => undefined)
        return { name, at: file?.mtimeMs ?? 0 }
      }),
    )
    return written.toSorted((a, b) => b.at - a.at).map(({ name }) => name)
  }

  async #readProven(): Promise<readonly string[]> {
    const value = parseJson(await readText(join(this.#directory, 'proven.json')))
    if (!Array.isArray(value)) return []
    return value.filter((digest) => typeof digest === 'string' && /^[0-9a-f]{64}$/.test(digest))
  }
}

/** Hand-edited files that drift/ keeps; beyond it the oldest go. */
const DRIFT_FILES_KEPT = 100

/** SHA-256 of its own two files. */
const hashesOf = perObject((generation: Generation) => ({
  main: sha256(generation.main),
  manifest: sha256(manifest(generation)),
}))

function manifest({ digest, main, units }: Generation): string {
  const head = JSON.stringify({ v: 1, digest, main: sha256(main) } satisfies Omit<ManifestBody, 'units'>)
  // The manifest vouches for the other files, so it carries its own hash.
  const text = `${head.slice(0, -1)},"units":[${units.map(recordOf).join()}]}`
  return `{"sha256":"${sha256(text)}","body":${text}}\n`
}

/** JSON of each unit; of thousands, few change from one generation to the next. */
const recordOf = perObject((unit: Unit): string => {
  const { path, kind, digest, needs, listeners, hosts, files, modules, stream } = unit
  const record: ManifestBody['units'][number] = {
    path,
    kind,
    digest,
    needs,
    listeners,
    hosts,
    ...(files && { files: files.map(({ name, readers }) => ({ name, readers })) }),
    ...(modules && { modules }),
    ...(stream && { stream }),
  }
  return JSON.stringify(record)
})

/** What lies in objects/ for a generation. @param without names of what is left out */
function textsOf({ units, files }: Generation, without: ReadonlySet<string> = new Set()): readonly UnitFile[] {
  const texts = units
    .filter((unit) => !without.has(objectNameOf(unit)))
    .map((unit): UnitFile => ({ name: objectNameOf(unit), text: unit.text, readers: 'master' }))
  const unique = new Map([...texts, ...files].map((each) => [each.name, each]))
  return [...unique.values()].filter(({ name }) => !without.has(name))
}

function namesIn({ units, files }: Generation): readonly string[] {
  return [...new Set([...units.map(objectNameOf), ...files.map(({ name }) => name)])]
}

const objectNameOf = perObject(({ digest }: Unit) => objectName(digest))

function namesOf(body: ManifestBody | undefined): readonly string[] {
  const names = body?.units.flatMap(({ digest, files = [] }) => [objectName(digest), ...files.map(({ name }) => name)])
  return [...new Set(names)]
}

function objectName(digest: string): string {
  return `${digest}.conf`
}

/** The SHA-256 that a name in objects/ begins with. */
function hashIn(name: string): string {
  return name.slice(0, name.indexOf('.'))
}

function parseManifest(text: string | undefined): ManifestBody | undefined {
  const value = parseJson(text) as { body?: ManifestBody; sha256?: string } | undefined
  if (value?.body === undefined || sha256(JSON.stringify(value.body)) !== value.sha256) return undefined
  return value.body.v === 1 ? value.body : undefined
}

function parseJson(text: string | undefined): unknown {
  try {
    return text === undefined ? undefined : JSON.parse(text)
  } catch {
    return undefined
  }
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch {
    return undefined
  }
}

async function inParallel<T>(items: readonly T[], task: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values()
  await Promise.all(
    Array.from({ length: Math.min(PARALLEL, items.length) }, async () => {
      for (const item of queue) await task(item)
    }),
  )
}
