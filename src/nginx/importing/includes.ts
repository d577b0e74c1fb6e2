/**
 * From the main file of a configuration tree to all of its directives: each include replaced by what the files hold that it
 * means. Pure: whoever calls says how a pattern is looked up.
 */

import { asMeshError, MeshError } from '../../errors.ts'
import { plain } from '../rendering/quote.ts'
import { parse, type Directive } from './parse.ts'

export interface ConfigFile {
  /** Absolute. */
  readonly path: string
  readonly text: string
}

/** The files that an absolute path or glob pattern means, sorted; none when there are none. @throws Error when one cannot be read */
export type Lookup = (pattern: string) => readonly ConfigFile[]

/** Directories without a final slash. */
export interface Bases {
  /** What relative includes and keys are relative to: the directory of the main file when left out, as in nginx. */
  readonly base?: string | undefined
  /** nginx's prefix, which relative directories of files are below. They are left as they are without it. */
  readonly prefix?: string | undefined
}

export const IMPORT_LIMITS = {
  /** Includes within includes. */
  depth: 16,
  /** Counted each time one is included. */
  files: 10_000,
  /** Of all files, likewise. */
  characters: 64 * 1024 * 1024,
} as const

/** Directives whose file is relative to the directory of the main file. */
const FILES =
  /^(?:ssl_(?:certificate|certificate_key|client_certificate|trusted_certificate|dhparam|crl|password_file)|(?:proxy|grpc|uwsgi)_ssl_(?:certificate|certificate_key|trusted_certificate|crl)|auth_basic_user_file)$/
/** Those whose directory is relative to the prefix. */
const DIRECTORIES = /^(?:root|alias)$/

/**
 * @throws MeshError `input_invalid` with file and line; `too_large` beyond IMPORT_LIMITS
 */
export function readTree(main: ConfigFile, lookup: Lookup, bases: Bases = {}): Directive[] {
  const { base = directoryOf(main.path), prefix } = bases
  let files = 0
  let characters = 0
  const read = ({ path, text }: ConfigFile, within: readonly string[], from?: Directive): Directive[] => {
    files += 1
    characters += text.length
    const { depth, files: filesMax, characters: charactersMax } = IMPORT_LIMITS
    if (from !== undefined && within.includes(path)) throw fault(from, `${path} includes itself`)
    if (within.length > depth || files > filesMax || characters > charactersMax) {
      const what = `${path} is one include too many: at most ${depth} within each other, ${filesMax} files, and ${charactersMax / 1024 / 1024} MiB`
      throw new MeshError('too_large', from === undefined ? what : `${placeOf(from)}: ${what}`, { field: path })
    }
    return expand(parse(text, path), [...within, path])
  }
  const expand = (directives: readonly Directive[], within: readonly string[]): Directive[] =>
    directives.flatMap((directive): Directive[] => {
      const { name, args, block } = directive
      if (block !== undefined) return [{ ...directive, block: expand(block, within) }]
      const [pattern] = args
      if (pattern === undefined) return [directive]
      if (name !== 'include') return [withAbsolutePath(directive, base, prefix)]
      const found = lookedUp(directive, () => lookup(pattern.startsWith('/') ? pattern : `${base}/${pattern}`))
      if (found.length === 0 && !/[*?[]/.test(pattern)) throw fault(directive, `there is no file ${pattern} to include`)
      return found.flatMap((each) => read(each, within, directive))
    })
  return read(main, [])
}

export function directoryOf(path: string): string {
  return path.replace(/\/[^/]*$/, '')
}

function lookedUp(directive: Directive, lookup: () => readonly ConfigFile[]): readonly ConfigFile[] {
  try {
    return lookup()
  } catch (error) {
    throw fault(directive, asMeshError(error).message, error)
  }
}

function placeOf({ file, line }: Directive): string {
  return `${file}:${line}`
}

function fault(include: Directive, what: string, cause?: unknown): MeshError {
  const hint = 'import on the host itself, as who may read it, or copy what is included beside'
  return new MeshError(
    'input_invalid',
    `${placeOf(include)}: ${what}`,
    { field: placeOf(include), hint },
    ...(cause === undefined ? [] : [cause]),
  )
}

/** What is read from another place later must name the same file. */
function withAbsolutePath(directive: Directive, base: string, prefix: string | undefined): Directive {
  const [path = ''] = directive.args
  const from = FILES.test(directive.name) ? base : DIRECTORIES.test(directive.name) ? prefix : undefined
  if (from === undefined || /^(?:\/|.*[$:])/.test(path)) return directive
  const absolute = `${from}/${path}`
  return { ...directive, args: [absolute], raw: [plain(absolute)] }
}
