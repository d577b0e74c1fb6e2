/**
 * The structured log: lines of text for people or JSON for machines, with levels per target. Never writes key
 * material, line breaks or terminal codes that came from outside. The entries create it; everything else gets a child.
 */

export const LEVELS = ['ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE'] as const
export type Level = (typeof LEVELS)[number]

/** What is known about an event besides its message. Values may be anything; errors show code, message and causes. */
export type Fields = Readonly<Record<string, unknown>>

/** A log bound to one target (`replica`, `network`, `nginx.apply`). */
export interface Log {
  error(message: string, fields?: Fields): void
  warn(message: string, fields?: Fields): void
  info(message: string, fields?: Fields): void
  debug(message: string, fields?: Fields): void
  trace(message: string, fields?: Fields): void
  /** Whether a line of this level would be written: ask before computing costly fields. */
  enabled(level: Level): boolean
  /** The log of a target below this one: `nginx` -> `nginx.apply`. */
  child(target: string): Log
}

export interface LogOptions {
  /** As in `log_level`; see parseLogLevel. */
  readonly level: string
  /** auto: text on a terminal, JSON lines elsewhere. */
  readonly format: 'auto' | 'text' | 'json'
  /** Where lines go; the entries pass process.stderr. */
  readonly stream: { write(line: string): unknown; readonly isTTY?: boolean }
  /** Wall time, ms since the epoch. */
  readonly now: () => number
}

/** A string longer than this is cut, and the cut is shown. */
const TEXT_MAX = 4096
/** Deeper values, and more entries of one value than this, are left out. */
const DEPTH_MAX = 4
const ENTRIES_MAX = 32

/** Targets of libraries (`lib.libp2p`): they speak only from WARN up unless asked for. */
const LIBRARIES = 'lib'

export type LevelOf = (target: string) => Level

/**
 * Reads `log_level`, a comma-separated list: `LEVEL` for all of NxMesh, `=LEVEL` for every target with those of
 * libraries, `target=LEVEL` for a target and those below it. The most specific one counts; default INFO.
 * @throws RangeError for anything else.
 */
export function parseLogLevel(spec: string): LevelOf {
  const levels = new Map<string, Level>([
    ['', 'INFO'],
    [LIBRARIES, 'WARN'],
  ])
  for (const part of spec.split(',').map((text) => text.trim())) {
    const [, target, name = ''] = /^(?:([a-z0-9.-]*)=)?([A-Za-z]+)$/.exec(part) ?? []
    const level = LEVELS.find((known) => known === name.toUpperCase())
    if (level === undefined) {
      throw new RangeError('LEVEL, =LEVEL or target=LEVEL, with LEVEL one of ERROR, WARN, INFO, DEBUG, TRACE')
    }
    levels.set(target ?? '', level)
    if (target === '') levels.set(LIBRARIES, level)
  }
  return (target) => {
    for (let name = target; ; name = name.slice(0, Math.max(0, name.lastIndexOf('.')))) {
      const level = levels.get(name)
      if (level !== undefined) return level
    }
  }
}

/** The log of the whole process. */
export function createLog(options: LogOptions): Log {
  const levelOf = parseLogLevel(options.level)
  const isText = options.format === 'text' || (options.format === 'auto' && options.stream.isTTY === true)
  const format = isText ? textLine : jsonLine

  const bind = (target: string): Log => {
    const limit = LEVELS.indexOf(levelOf(target))
    const enabled = (level: Level): boolean => LEVELS.indexOf(level) <= limit
    const write =
      (level: Level) =>
      (message: string, fields: Fields = {}) => {
        if (enabled(level))
          options.stream.write(`${format(new Date(options.now()).toISOString(), level, target, message, fields)}\n`)
      }
    return {
      error: write('ERROR'),
      warn: write('WARN'),
      info: write('INFO'),
      debug: write('DEBUG'),
      trace: write('TRACE'),
      enabled,
      child: (name) => bind(target === '' ? name : `${target}.${name}`),
    }
  }
  return bind('')
}

function jsonLine(time: string, level: Level, target: string, message: string, fields: Fields): string {
  const shown = showEntries(fields, 0)
  const line = { time, level, target, message: cut(message), ...(Object.keys(shown).length > 0 && { fields: shown }) }
  return escapeControls(JSON.stringify(line))
}

function textLine(time: string, level: Level, target: string, message: string, fields: Fields): string {
  const shown = Object.entries(showEntries(fields, 0)).map(([name, value]) => ` ${bare(name)}=${bare(value)}`)
  const from = target === '' ? '' : `${target}: `
  return escapeControls(`${time} ${level.padEnd(5)} ${from}${cut(message)}${shown.join('')}`)
}

function bare(value: unknown): string {
  return typeof value === 'string' && /^[^\s"=\\]+$/.test(value) ? value : JSON.stringify(value)
}

// Line breaks forge lines, escape sequences drive terminals, direction marks make text read as something else.
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g

function escapeControls(line: string): string {
  return line.replace(CONTROLS, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

function cut(text: string): string {
  return text.length <= TEXT_MAX ? text : `${text.slice(0, TEXT_MAX)}… (${text.length} characters)`
}

/** Names under which keys, tokens and passwords travel. Public keys are not among them. */
const SECRET = /private|secret|seed|passw|token|authorization|cookie/i

function showEntries(fields: Fields, depth: number): Record<string, unknown> {
  const entries = Object.entries(fields).filter(([, value]) => value !== undefined)
  const shown = entries
    .slice(0, ENTRIES_MAX)
    .map(([name, value]) => [name, SECRET.test(name) ? '(hidden)' : show(value, depth)])
  if (entries.length > ENTRIES_MAX) shown.push(['…', `${entries.length - ENTRIES_MAX} more`])
  return Object.fromEntries(shown) as Record<string, unknown>
}

function show(value: unknown, depth: number): unknown {
  switch (typeof value) {
    case 'string':
      return cut(value)
    case 'number':
      return Number.isFinite(value) ? value : String(value)
    case 'boolean':
      return value
    case 'object':
      if (value === null) return null
      break
    default:
      return cut(String(value))
  }
  // Bytes may be a key: their number says enough.
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return `(${value.byteLength} bytes)`
  if (depth >= DEPTH_MAX) return '…'
  if (value instanceof Error) return showError(value, depth)
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'Invalid Date' : value.toISOString()
  if (value instanceof Map) return showEntries(Object.fromEntries(value), depth + 1)
  if (Array.isArray(value) || value instanceof Set) {
    const items = [...value]
    const shown = items.slice(0, ENTRIES_MAX).map((item) => show(item, depth + 1))
    return items.length > ENTRIES_MAX ? [...shown, `… ${items.length - ENTRIES_MAX} more`] : shown
  }
  return showEntries(value as Fields, depth + 1)
}

function showError(error: Error, depth: number): unknown {
  const { code } = error as { code?: unknown }
  // A code marks an error that was expected somewhere; without one, only the stack tells where it came from.
  return showEntries(
    {
      code: typeof code === 'string' ? code : undefined,
      message: error.message,
      cause: error.cause,
      stack: typeof code === 'string' ? undefined : error.stack,
    },
    depth + 1,
  )
}
