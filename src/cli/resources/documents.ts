/**
 * YAML in: files, folders and standard input become checked resources, all of them or none. Every fault is reported at
 * once, each with its file, document and field. Reading touches the disk; parsing is pure.
 */

import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { parseAllDocuments } from 'yaml'
import { wantedOf, type Wanted as WantedResource } from '../../core/plan.ts'
import { isTree } from '../../core/resources/kind.ts'
import { asMeshError, MeshError } from '../../errors.ts'
import { plain } from '../terminal.ts'
import { POLICY_KIND } from '../grants/workspace-policy.ts'

export const INPUT_LIMITS = {
  /** Of one file, and of standard input. */
  fileBytes: 16 * 1024 * 1024,
  files: 10_000,
  documents: 100_000,
  /** Faults that are spelled out; the others are counted. */
  faults: 50,
} as const

const EXTENSIONS = ['.yaml', '.yml', '.json']

export interface Source {
  /** As the operator knows it: a file name, or `stdin`. */
  readonly name: string
  readonly text: string
}

/** A wanted resource, and who says so. */
export interface Wanted extends WantedResource {
  /** `web.yaml:2`: file and document. */
  readonly from: string
}

/** Reads files, folders (recursively, sorted, hidden ones left out) and `-` for standard input. */
export async function readSources(
  paths: readonly string[],
  resolve: (path: string) => string,
  stdin: AsyncIterable<Uint8Array>,
): Promise<Source[]> {
  const sources: Source[] = []
  for (const path of paths) {
    if (path === '-') sources.push({ name: 'stdin', text: await readStream(stdin) })
    else sources.push(...(await readPath(resolve(path), path)))
    if (sources.length > INPUT_LIMITS.files)
      throw new MeshError('too_large', `over ${INPUT_LIMITS.files} files`, { field: path })
  }
  return sources
}

async function readPath(file: string, name: string): Promise<Source[]> {
  try {
    const info = await stat(file)
    if (!info.isDirectory()) {
      if (info.size > INPUT_LIMITS.fileBytes) throw tooLarge(name)
      return [{ name, text: await readFile(file, 'utf8') }]
    }
    const sources: Source[] = []
    const entries = await readdir(file, { withFileTypes: true })
    for (const entry of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
      const isWanted = entry.isDirectory() || EXTENSIONS.some((extension) => entry.name.endsWith(extension))
      if (entry.name.startsWith('.') || !isWanted) continue
      sources.push(...(await readPath(join(file, entry.name), join(name, entry.name))))
    }
    return sources
  } catch (error) {
    if (error instanceof MeshError) throw error
    throw new MeshError(
      'input_invalid',
      `cannot read ${name}: ${(error as Error).message}`,
      { field: '-f', value: name },
      error,
    )
  }
}

export async function readStream(stream: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of stream) {
    size += chunk.length
    if (size > INPUT_LIMITS.fileBytes) throw tooLarge('stdin')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function tooLarge(name: string): MeshError {
  return new MeshError('too_large', `${name} is over ${INPUT_LIMITS.fileBytes} bytes`, { field: '-f', value: name })
}

/** Where a document that does not say so belongs. */
export interface Defaults {
  readonly workspace?: string | undefined
  readonly zone?: string | undefined
}

/**
 * The resources of all documents. A JSON or YAML list counts as several documents.
 * @throws MeshError `resource_invalid` with every fault that was found, and the field of the first.
 */
export function parseSources(sources: readonly Source[], defaults: Defaults = {}): Wanted[] {
  const wanted = new Map<string, Wanted>()
  const faults: { text: string; field: string | undefined }[] = []
  for (const { from, read } of sources.flatMap(documentsOf)) {
    try {
      const document = read()
      if (isTree(document) && document['kind'] === POLICY_KIND) throw noResource()
      const one = wantedOf(withDefaults(document, defaults))
      const other = wanted.get(one.path)
      if (other !== undefined)
        throw new MeshError('resource_invalid', `${one.path} is in ${other.from} already`, { field: 'metadata.name' })
      wanted.set(one.path, { ...one, from })
    } catch (error) {
      const { message, details } = asMeshError(error)
      const hint = details.hint === undefined ? '' : ` (${details.hint})`
      faults.push({ text: `${from}: ${plain(message.trim())}${plain(hint)}`, field: details.field })
    }
  }
  if (faults.length > 0) {
    const shown = faults.slice(0, INPUT_LIMITS.faults).map(({ text }) => text)
    const more = faults.length > shown.length ? [`and ${faults.length - shown.length} more`] : []
    const field = faults[0]?.field
    throw new MeshError('resource_invalid', [...shown, ...more].join('\n'), {
      ...(field === undefined ? {} : { field }),
      hint: 'Nothing was changed.',
    })
  }
  if (wanted.size === 0) throw new MeshError('input_invalid', 'there is no document in what was given', { field: '-f' })
  return [...wanted.values()]
}

interface Unread {
  readonly from: string
  /** @throws MeshError when the text is not YAML. */
  readonly read: () => unknown
}

/** The documents of a file, each to be read for itself. */
export function documentsOf({ name, text }: Source): Unread[] {
  const documents = parseAllDocuments(text, { prettyErrors: true })
  if (!Array.isArray(documents)) return []
  if (documents.length > INPUT_LIMITS.documents)
    throw new MeshError('too_large', `${name} has over ${INPUT_LIMITS.documents} documents`)
  return documents.flatMap((document, index): Unread[] => {
    const from = `${name}:${index + 1}`
    const [error] = document.errors
    if (error !== undefined) return [{ from, read: () => fail(`is not YAML: ${reasonOf(error)}`) }]
    let value: unknown
    try {
      value = document.toJS({ maxAliasCount: 100 })
    } catch (cause) {
      return [{ from, read: () => fail(`is not YAML that can be used: ${reasonOf(cause as Error)}`) }]
    }
    if (value === null || value === undefined) return []
    if (Array.isArray(value))
      return value.map((item, position) => ({ from: `${from}[${position}]`, read: () => item as unknown }))
    return [{ from, read: () => value }]
  })
}

function reasonOf({ message }: Error): string {
  const [first = ''] = message.split('\n')
  return first.startsWith('Maximum call stack size exceeded') ? 'it is nested too deep' : first
}

function noResource(): MeshError {
  return new MeshError('resource_invalid', `a ${POLICY_KIND} is no resource`, {
    field: 'kind',
    hint: 'it is for: meshctl policy apply -f FILE',
  })
}

function fail(message: string): never {
  throw new MeshError('resource_invalid', message)
}

function withDefaults(document: unknown, { workspace, zone }: Defaults): unknown {
  if (!isTree(document) || !isTree(document['metadata'])) return document
  const given = { ...(workspace === undefined ? {} : { workspace }), ...(zone === undefined ? {} : { zone }) }
  return { ...document, metadata: { ...given, ...document['metadata'] } }
}
