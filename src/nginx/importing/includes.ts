/**
 * From the main file of a configuration tree to all of its directives: each include replaced by what the files hold that it
 * means. Pure: whoever calls says how a pattern is looked up.
 */

import { MeshError } from '../../errors.ts'
import { plain } from '../rendering/quote.ts'
import { parse, type Directive } from './parse.ts'

export interface ConfigFile {
  /** Absolute. */
  readonly path: string
  readonly text: string
}

/** The files that an absolute path or glob pattern means, sorted; none when there are none. */
export type Lookup = (pattern: string) => readonly ConfigFile[]

export const IMPORT_LIMITS = {
  /** Includes within includes. */
  depth: 16,
  /** Counted each time one is included. */
  files: 10_000,
} as const

/** Directives whose file is relative to the directory of the main file. */
const FILES =
  /^(?:ssl_(?:certificate|certificate_key|client_certificate|trusted_certificate|dhparam|crl|password_file)|(?:proxy|grpc|uwsgi)_ssl_(?:certificate|certificate_key|trusted_certificate|crl)|auth_basic_user_file)$/

/**
 * @param main what relative includes are relative to is its directory, as in nginx
 * @throws MeshError `input_invalid` with file and line; `too_large` beyond IMPORT_LIMITS
 */
export function readTree(main: ConfigFile, lookup: Lookup): Directive[] {
  const base = main.path.replace(/\/[^/]*$/, '')
  let files = 0
  const read = ({ path, text }: ConfigFile, depth: number): Directive[] => {
    files += 1
    if (depth > IMPORT_LIMITS.depth || files > IMPORT_LIMITS.files) {
      throw new MeshError('too_large', `${path} is one include too many, or includes itself`, { field: path })
    }
    return expand(parse(text, path), depth)
  }
  const expand = (directives: readonly Directive[], depth: number): Directive[] =>
    directives.flatMap((directive): Directive[] => {
      const { name, args, block, file, line } = directive
      if (block !== undefined) return [{ ...directive, block: expand(block, depth) }]
      const [pattern] = args
      if (pattern === undefined) return [directive]
      if (name !== 'include') return [withAbsolutePath(directive, base)]
      const found = lookup(pattern.startsWith('/') ? pattern : `${base}/${pattern}`)
      if (found.length === 0 && !/[*?[]/.test(pattern)) {
        throw new MeshError('input_invalid', `${file}:${line}: there is no file ${pattern} to include`, {
          field: `${file}:${line}`,
          hint: 'import on the host itself, or copy what is included beside',
        })
      }
      return found.flatMap((each) => read(each, depth + 1))
    })
  return read(main, 0)
}

/** What is read from another place later must name the same file. */
function withAbsolutePath(directive: Directive, base: string): Directive {
  const [path = ''] = directive.args
  if (!FILES.test(directive.name) || /^(?:\/|.*[$:])/.test(path)) return directive
  const absolute = `${base}/${path}`
  return { ...directive, args: [absolute], raw: [plain(absolute)] }
}
