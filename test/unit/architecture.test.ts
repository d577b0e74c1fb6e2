/**
 * The direction rule of ARCHITECTURE.md, where lint cannot say it: which room of src may import from which, what pure
 * code may import from outside, that each file opens by saying what it owns, and that ARCHITECTURE.md names only what
 * exists. Reads source text, runs none of it.
 */

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const PROJECT = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

type Sources = ReadonlyMap<string, string>

/** A room imports from rooms of its own rank or below. What is not listed is in the middle, with replica and the like. */
const RANKS: Readonly<Record<string, number>> = {
  errors: 0,
  core: 1,
  ports: 2,
  log: 2,
  metrics: 2,
  adapters: 3,
  nginx: 3,
  node: 4,
  'nginx-parts': 4,
  cli: 4,
  quickstart: 4,
  'mesh-node': 5,
  meshctl: 5,
}
const MIDDLE = 3
/** From here on, code knows which adapters there are; below, it knows their ports. */
const COMPOSITION = 4

/** Pure code gives the same output for the same input on every node. */
const PURE = /^src\/(core|nginx\/(?:rendering|importing)|upstreams\/judging)\//
const PURE_PACKAGES = /^(node:(crypto|net|url)|zod|@noble\/.+|@automerge\/automerge)$/
const IMPURE =
  /\b(Date\.now|new Date\(\s*\)|Math\.random|randomBytes|randomUUID|performance|process\.|console\.|setTimeout|fetch\()/
const COMMENT = /\/\*[^]*?\*\/|\/\/.*/g

const IMPORT =
  /(?:^|\n)\s*(?:import|export)\b[^'"`;]*?\bfrom\s*'([^']+)'|\bimport\(\s*'([^']+)'|(?:^|\n)\s*import\s*'([^']+)'/g

function importsOf(text: string): string[] {
  return [...text.matchAll(IMPORT)].map(([, from, dynamic, bare]) => from ?? dynamic ?? bare ?? '')
}

/** `src/core/names.ts` -> `core`; `src/replica.ts` -> `replica`. */
function roomOf(file: string): string {
  return (file.split('/')[1] ?? '').replace(/\.ts$/, '')
}

/** `src/adapters/network/link.ts` and `src/adapters/network.ts` -> `network`. */
function adapterOf(file: string): string | undefined {
  return roomOf(file) === 'adapters' ? (file.split('/')[2] ?? '').replace(/\.ts$/, '') : undefined
}

function rankOf(file: string): number {
  return RANKS[roomOf(file)] ?? MIDDLE
}

/** Each breach as one sentence; empty when all is well. */
function breachesOf(sources: Sources): string[] {
  const isPure = (file: string) => PURE.test(file)
  return [...sources].flatMap(([file, text]) => [
    ...importsOf(text).flatMap((specifier) => {
      const target = specifier.startsWith('.') ? posix.join(posix.dirname(file), specifier) : undefined
      if (target === undefined) {
        const allowed = !isPure(file) || PURE_PACKAGES.test(specifier)
        return allowed ? [] : [`${file} is pure and must not import ${specifier}`]
      }
      if (target === 'package.json') return []
      if (!target.startsWith('src/')) return [`${file} must not import ${target}, which is outside src`]
      if (rankOf(target) > rankOf(file)) {
        return [`${file} must not import ${target}: ${roomOf(file)} lies below ${roomOf(target)}`]
      }
      if (isPure(file) && rankOf(target) >= MIDDLE && !isPure(target)) {
        return [`${file} is pure and must not import ${target}, which is not`]
      }
      const adapter = adapterOf(target)
      if (adapter === undefined || adapter === adapterOf(file) || rankOf(file) >= COMPOSITION) return []
      return [`${file} must not import ${target}: it may know the port, not the adapter`]
    }),
    ...(isPure(file) ? impuritiesOf(text).map((found) => `${file} is pure and must not use ${found}`) : []),
  ])
}

function impuritiesOf(text: string): string[] {
  const found = IMPURE.exec(text.replaceAll(COMMENT, ''))?.[1]
  return found === undefined ? [] : [found]
}

function sourcesUnder(folder: string): Sources {
  const files = readdirSync(join(PROJECT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(ts|js)$/.test(name))
    .map((name) => posix.join(folder, name))
  return new Map(files.toSorted().map((file) => [file, readFileSync(join(PROJECT, file), 'utf8')]))
}

test('every import in src follows the direction rule', () => {
  const sources = sourcesUnder('src')
  expect(sources.size).toBeGreaterThan(10)
  expect(breachesOf(sources)).toEqual([])
})

test.each([
  ['src/core/slice.ts', `import type { Clock } from '../ports.ts'`, 'core lies below ports'],
  [
    'src/core/resources/site.ts',
    `import {\n  listen,\n} from '../../nginx/rendering/render.ts'`,
    'core lies below nginx',
  ],
  ['src/core/slice.ts', `import { readFileSync } from 'node:fs'`, 'is pure and must not import node:fs'],
  ['src/core/slice.ts', `export { Hono } from 'hono'`, 'is pure and must not import hono'],
  ['src/core/slice.ts', `const at = new Date()`, 'must not use new Date()'],
  [
    'src/nginx/rendering/render.ts',
    `import { swap } from '../../reconciler.ts'`,
    'is pure and must not import src/reconciler.ts',
  ],
  [
    'src/nginx/rendering/render.ts',
    `import { disk } from '../applying/disk.ts'`,
    'is pure and must not import src/nginx/applying/disk.ts',
  ],
  ['src/nginx/rendering/render.ts', `const at = Date.now()`, 'must not use Date.now'],
  ['src/adapters/store.ts', `import { dial } from './network/link.ts'`, 'the port, not the adapter'],
  ['src/replica.ts', `const { open } = await import('./adapters/store.ts')`, 'the port, not the adapter'],
  ['src/api/server.ts', `import { start } from '../node.ts'`, 'api lies below node'],
  ['src/node.ts', `import '../test/support/wait.ts'`, 'outside src'],
])('%s with %j is a breach', (file, text, breach) => {
  expect(breachesOf(new Map([[file, text]]))).toEqual([expect.stringContaining(breach)])
})

test.each([
  ['src/core/slice.ts', `import { z } from 'zod'\nimport { MeshError } from '../errors.ts'`],
  [
    'src/nginx/rendering/render-site.ts',
    `import type { Slice } from '../../core/slice.ts'\nimport { text } from './render-text.ts'`,
  ],
  ['src/adapters/network.ts', `import { link } from './network/link.ts'`],
  ['src/node.ts', `import { openStore } from './adapters/store.ts'`],
])('%s with %j is none', (file, text) => {
  expect(breachesOf(new Map([[file, text]]))).toEqual([])
})

// ---------------------------------------------------------------------------------------------- Automerge

/** What makes changes and reads documents. All else of Automerge takes in what somebody else made, or hands it out. */
const AUTOMERGE_CALLS = new Set(['init', 'free', 'encodeChange', 'decodeChange', 'getBackend'])

/** The one file that knows Automerge, and how it applies what it encoded itself. */
const AUTOMERGE_FILE = 'src/core/automerge.ts'
const OWN_CHANGES = 'applyChanges(encode(changes))'

/** Foreign changes can kill a node: a few bytes unpack to gigabytes. So nothing is applied or decoded that was not encoded there. */
function automergeBreachesOf(sources: Sources): string[] {
  return [...sources].flatMap(([file, source]) => {
    const text = source.replaceAll(COMMENT, '')
    if (!importsOf(text).some((specifier) => specifier.startsWith('@automerge/'))) return []
    if (file !== AUTOMERGE_FILE) return [`${file} must not know Automerge`]
    const calls = [...text.matchAll(/\bAutomerge\.(\w+)\(/g)].map(([, name]) => name as string)
    const doors = /\.(applyChanges|load\w*|merge|receiveSyncMessage|applyPatches)\(/.exec(
      text.replaceAll(OWN_CHANGES, ''),
    )
    return [
      ...calls.filter((name) => !AUTOMERGE_CALLS.has(name)).map((name) => `${file} must not call Automerge.${name}`),
      ...(doors === null ? [] : [`${file} must not call ${doors[1]}`]),
      ...(text.split('Automerge.decodeChange(').length > 2 ? [`${file} decodes changes in several places`] : []),
    ]
  })
}

test('nothing but changes made here reaches Automerge', () => {
  const sources = sourcesUnder('src')
  expect(automergeBreachesOf(sources)).toEqual([])
  const text = sources.get(AUTOMERGE_FILE) ?? ''
  expect([importsOf(text)[0], text.includes(OWN_CHANGES)]).toEqual(['@automerge/automerge', true])
})

test.each([
  ['src/sync/sync.ts', '', 'must not know Automerge'],
  [AUTOMERGE_FILE, 'Automerge.load(bytes)', 'must not call Automerge.load'],
  [AUTOMERGE_FILE, 'Automerge.applyChanges(doc, changes)', 'must not call Automerge.applyChanges'],
  [AUTOMERGE_FILE, 'backend.applyChanges(step.changes)', 'must not call applyChanges'],
  [AUTOMERGE_FILE, 'backend.loadIncremental(bytes)', 'must not call loadIncremental'],
])('%s with %j lets foreign changes in', (file, code, breach) => {
  const text = `import * as Automerge from '@automerge/automerge'\n${code}\n`
  expect(automergeBreachesOf(new Map([[file, text]]))).toContainEqual(expect.stringContaining(breach))
})

test('every source file opens with a comment on what it owns', () => {
  const silent = ['src', 'scripts']
    .flatMap((folder) => [...sourcesUnder(folder)])
    .filter(([, text]) => !/^(#!.*\n)?\/\*\*(\n \*)? \S/.test(text))
    .map(([file]) => file)
  expect(silent).toEqual([])
})

// ---------------------------------------------------------------------------------------------- ARCHITECTURE.md

const isTopLevel = (folder: string): boolean => /^(src|test|scripts|docs|charts|examples|keys)\//.test(folder)

/** Whether the text declares a function, class, constant, type, kind of resource, or member of a class by this name. */
function declares(text: string, name: string): boolean {
  const topLevel = new RegExp(`^(?:export )?(?:async )?(?:function\\*?|class|const|interface|type) ${name}\\b`, 'm')
  const member = new RegExp(`^  (?:readonly |static |async |get )*${name}(?:<[^>]*>)?[(:?]`, 'm')
  return topLevel.test(text) || member.test(text) || text.includes(`  kind: '${name}',`)
}

/**
 * What a page in Markdown names and the project does not have: files, declared names (`signEnvelope`, `LIMITS`), members
 * (`Replica.submit`), and a name that is said to be in a file (`slice` (`src/core/slice.ts`)) and is in another.
 */
function missingFrom(page: string, sources: Sources, exists: (path: string) => boolean): string[] {
  const texts = [...sources.values()]
  const isDeclared = (name: string): boolean => {
    const [owner, member] = name.split('.') as [string, string | undefined]
    return texts.some((text) => declares(text, owner) && (member === undefined || declares(text, member)))
  }
  const codes = [...page.matchAll(/`([^`\n]+)`/g)].map(([, code]) => code as string)
  const paths = codes.filter((code) => isTopLevel(code) && !exists(code))
  const names = codes.filter((code) => /^[A-Za-z]\w+(\.\w+)?$/.test(code) && !PROGRAMS.has(code) && !isDeclared(code))
  const placed = page.matchAll(/`([\w.]+)`(?:\s+and\s+`([\w.]+)`)?\s+(?:in\s+|\()`(src\/[^`]+\.ts)`/g)
  const misplaced = [...placed].flatMap(([, first, second, file]) =>
    [first, second].flatMap((name) => {
      const text = sources.get(file as string) ?? ''
      const isThere = name === undefined || name.split('.').every((part) => declares(text, part))
      return isThere ? [] : [`${name} in ${file}`]
    }),
  )
  return [...new Set([...paths, ...names, ...misplaced])]
}

const PROGRAMS: ReadonlySet<string> = new Set(['meshctl', 'nginx'])

test('every file and function that ARCHITECTURE.md names exists', () => {
  const page = readFileSync(join(PROJECT, 'ARCHITECTURE.md'), 'utf8')
  const sources = new Map([...sourcesUnder('src'), ...sourcesUnder('scripts')])
  expect(missingFrom(page, sources, (path) => existsSync(join(PROJECT, path)))).toEqual([])
  expect(page.match(/`src\/[^`]+`/g)?.length).toBeGreaterThan(10)
})

test.each([
  ['`src/gone.ts`', 'src/gone.ts'],
  ['`src/core/slise.ts` cuts', 'src/core/slise.ts'],
  ['`sliced` is a function', 'sliced'],
  ['`Replica.submitted` takes it', 'Replica.submitted'],
  ['`slice` (`src/replica.ts`)', 'slice in src/replica.ts'],
  ['`slice` and `submit` in `src/core/slice.ts`', 'submit in src/core/slice.ts'],
])('%s is missed', (page, missing) => {
  const sources = new Map([
    ['src/core/slice.ts', 'export function slice(resources: Iterable<ResourceState>) {}'],
    ['src/replica.ts', 'export class Replica {\n  async submit(envelopes: readonly string[]) {}\n}'],
  ])
  expect(missingFrom(page, sources, (path) => sources.has(path))).toEqual([missing])
  const right = '`Replica.submit` in `src/replica.ts`, `slice` (`src/core/slice.ts`), `meshctl apply`, `core <- ports`'
  expect(missingFrom(right, sources, (path) => sources.has(path))).toEqual([])
})
