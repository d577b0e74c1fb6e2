/**
 * The fuzzer of rendering: valid documents with hostile texts in any of their strings, parsed and rendered as the node
 * does, read back by nginx's rules, and compared with the same documents with harmless texts there. Called by
 * scripts/fuzz.ts and the unit test; knows nothing of how values are quoted.
 */

import fc from 'fast-check'
import type { Value } from '../../src/core/envelope.ts'
import { isName, resourcePath } from '../../src/core/names.ts'
import { fieldsOf, parseDocument, pathOf, type Resource } from '../../src/core/resources/index.ts'
import { MeshError } from '../../src/errors.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { resourceOf } from '../../src/nginx/rendering/unit.ts'
import { hostNamesOf } from '../../src/nginx/rendering/render.ts'
import { resourceArbitrary } from './arbitrary-resources.ts'
import { makeCertificate } from './certificates.ts'
import { addressOf, isMeant, MAP_ENTRY, meaningsOf } from './field-meanings.ts'
import {
  FULL,
  FULL_REFERENCES,
  FULL_SECRETS,
  HOSTILE,
  knownPatterns,
  placesIn,
  USERS,
  withoutPrograms,
  type Document,
  type Place,
} from './injection.ts'
import { readNginx, skeleton, type Directive } from './nginx-text.ts'
import { LAYOUT, renderStates, sliceOf, stateOf, withModules } from './resources.ts'

interface Attack {
  /** Of the base's places, modulo their number. */
  readonly place: number
  readonly text: string
  readonly as: 'whole' | 'start' | 'inside' | 'end'
  /** Writes each `$` twice, as templates want it. */
  readonly dollars: boolean
}
interface FuzzCase {
  readonly base: Document
  readonly attacks: readonly Attack[]
}
interface Written {
  readonly place: Place
  readonly text: string
}

export interface Tally {
  documents: number
  /** Documents with at least one hostile text whose rendering kept its shape. */
  rendered: number
  /** Documents that the schema took and that were left out with a problem. */
  reported: number
  /** How often each string field of the schemas was tried, and how often it took what it was given. */
  readonly fields: Map<string, { tried: number; taken: number }>
}

/** What every certificate holds that a document names. */
const PAIR = makeCertificate(['a.example'])
const CERTIFIED = new Map<string, Value>([
  ['certificate', [PAIR.certificate]],
  ['key/secret', 'key'],
])

const PLACES = new Map(FULL.map((document) => [document, placesIn(document)]))

const FRAGMENTS = [
  '" \' \\ ; { } # $ ${ $$ ) ( | * %0a %00 / [ ] ? ^ ~ @ = + . ` < , : & \\n \\" $host ${host} $uri evil x 1 ü'.split(
    ' ',
  ),
  [' ', '\n', '\t', '\r', '\f', '\0', '\u00a0', '\u3000', '\u2028', '\u{1f600}', '\ud800', 'evil on;'],
].flat()

const hostileText = fc.oneof(
  fc.constantFrom(...HOSTILE),
  {
    weight: 3,
    arbitrary: fc.array(fc.constantFrom(...FRAGMENTS), { minLength: 1, maxLength: 8 }).map((parts) => parts.join('')),
  },
  fc.array(fc.nat(0x10ffff), { minLength: 1, maxLength: 24 }).map((points) => String.fromCodePoint(...points)),
)

const attack: fc.Arbitrary<Attack> = fc.record({
  place: fc.nat(9999),
  text: hostileText,
  as: fc.constantFrom('whole', 'start', 'inside', 'end'),
  dollars: fc.boolean(),
})

/** The full documents have a place of every pattern, and are chosen as often as they have places. */
function fuzzCases(fields: RegExp): fc.Arbitrary<FuzzCase> {
  const full = [...PLACES].flatMap(([document, places]) => attackable(places, fields).map(() => document))
  return fc.record({
    base: fc.oneof(
      { weight: 2, arbitrary: fc.constantFrom(...full) },
      { weight: 1, arbitrary: resourceArbitrary as fc.Arbitrary<Document> },
    ),
    attacks: fc.array(attack, { minLength: 1, maxLength: 6 }),
  })
}

function attackable(places: readonly Place[], fields: RegExp): Place[] {
  return places.filter(({ pattern }) => fields.test(pattern))
}

/** Nothing tried yet. */
export function emptyTally(): Tally {
  const fields = new Map(knownPatterns().map((pattern) => [pattern, { tried: 0, taken: 0 }]))
  return { documents: 0, rendered: 0, reported: 0, fields }
}

interface FuzzOptions {
  /** Only string fields whose pattern it matches, such as `Site.spec.routes.*.path`, are attacked. */
  readonly fields?: RegExp
  /** Is given each document that rendered, with the patterns that were attacked. */
  readonly onRendered?: (document: Document, patterns: readonly string[]) => void
  /** Whether a document in which a text left its place is made as small as it goes, which takes minutes. */
  readonly shrinks?: boolean
}

/**
 * Tries as many documents from the seed.
 * @throws Error for the first in which a text left its place
 */
export function fuzzRendering(
  seed: number,
  documents: number,
  tally: Tally,
  { onRendered = () => undefined, shrinks = true, fields = /(?:)/ }: FuzzOptions = {},
): void {
  const property = fc.property(fuzzCases(fields), (tried) => judge(tried, tally, { fields, onRendered }))
  const result = fc.check(property, { seed, numRuns: documents, endOnFailure: !shrinks })
  if (!result.failed) return
  const [{ base, attacks }] = result.counterexample as [FuzzCase]
  const texts = attackedWith(base, attacks, emptyTally(), fields).map(
    ({ place, text }) => `${place.path.join('.')} = ${JSON.stringify(text)}`,
  )
  const found = result.errorInstance instanceof Error ? result.errorInstance.message : String(result.errorInstance)
  throw new Error([found, ...texts, `in ${JSON.stringify(base)}`].join('\n  '))
}

function judge(
  { base, attacks }: FuzzCase,
  tally: Tally,
  { fields, onRendered }: Required<Omit<FuzzOptions, 'shrinks'>>,
): void {
  tally.documents++
  const hostile = attackedWith(base, attacks, tally, fields)
  if (hostile.length === 0) return
  const snippets = new Map<string, readonly Directive[]>()
  const harmless = hostile.reduce<Written[]>((settled, { place, text }, index) => {
    const name = `harmless_${index}`
    if (isSnippet(place)) snippets.set(name, withEntries(readNginx(text)))
    const texts = isSnippet(place) ? [`${name};`] : harmlessTexts(place, index)
    const found = texts.find((each) => parse(withTexts(base, [...settled, { place, text: each }])) !== undefined)
    return found === undefined ? settled : [...settled, { place, text: found }]
  }, [])
  const document = withTexts(base, hostile)
  const found = renderDocument(parse(document) as Resource)
  const expected = renderDocument(parse(withTexts(base, harmless)) as Resource)
  if (expected.problems > 0 && PLACES.has(base))
    throw new Error('a full document is not rendered, though its texts are harmless: nothing is tried')
  const directives = withEntries(readNginx(found.text))
  if (found.problems > expected.problems) {
    tally.reported++
    return
  }
  compare(directives, withSnippets(withEntries(readNginx(expected.text)), snippets), hostile)
  tally.rendered++
  onRendered(
    document,
    hostile.map(({ place }) => place.pattern),
  )
}

// ---------------------------------------------------------------------------------------------- documents

/** What the schema takes of the attacks, each on a place of its own. */
function attackedWith(base: Document, attacks: readonly Attack[], tally: Tally, fields: RegExp): Written[] {
  const places = attackable(PLACES.get(base) ?? placesIn(base), fields)
  if (places.length === 0) return []
  const taken: Written[] = []
  for (const each of attacks) {
    const place = places[each.place % places.length] as Place
    const text = hostileTextAt(place, each)
    if (taken.some((other) => other.place === place) || meansAnotherThing(place, text)) continue
    const count = tally.fields.get(place.pattern)
    if (count === undefined) throw new Error(`${place.pattern} is no field that the schemas have`)
    count.tried++
    if (parse(withTexts(base, [...taken, { place, text }])) === undefined) continue
    count.taken++
    taken.push({ place, text })
  }
  return taken
}

function hostileTextAt({ pattern, text: own }: Place, { text, as, dollars }: Attack): string {
  const hostile = dollars ? text.replaceAll('$', '$$$$') : text
  // Among equals, IDs of routes decide which comes first: what they begin with stays.
  if (pattern === 'Site.spec.routes.{key}') return own + hostile
  if (as === 'whole') return hostile
  if (as === 'start') return hostile + own
  return as === 'end' ? own + hostile : own.slice(0, -1) + hostile + own.slice(-1)
}

/** Values with which a schema itself intends other directives. */
function meansAnotherThing({ pattern, text: own }: Place, text: string): boolean {
  if (/^(?:Site|Stream)\.spec\.hosts\.\[\]$/.test(pattern)) return own === '*' || text === '*'
  // All addresses are told in two halves.
  if (/\.(?:allow|deny)\.\[\]$/.test(pattern)) return own.endsWith('/0') || text.endsWith('/0')
  // Another policy, or template, says other things.
  if (/(?:[pP]olicies\.\[\]|spec\.template\.name)$/.test(pattern)) return isName(text)
  return pattern === 'Site.spec.routes.*.path' && (own === '/' || text === '/')
}

function isSnippet({ pattern }: Place): boolean {
  return /\.privileged\.(?:serverSnippet|(?:http|route)Snippets\.\*)$/.test(pattern)
}

const SAMPLES = new Map([...PLACES.values()].flat().map(({ pattern, text }) => [pattern, text]))

/** Of the same meaning as any other text there: it is like no other, so that it overrides nothing, and no default. */
function harmlessTexts({ pattern, text }: Place, index: number): string[] {
  if (/(?:address|(?:hosts|allow)\.\[\]|template\.values\.\{key\})$/.test(pattern)) return []
  if (
    /(?:\{key\}|(?:remove|types|subjects)\.\[\]|metadata\.name|path|exact|regex|cookie|header|upstream|certificate|ca|clientCertificate|secret)$/.test(
      pattern,
    )
  )
    return [`${text}h${index}`, `${text}h${index}/`]
  return [SAMPLES.get(pattern) ?? text]
}

/** Keys last and the deepest first, since what is below a key moves with it. */
function withTexts(base: Document, texts: readonly Written[]): Document {
  const document = structuredClone(base)
  const depth = ({ place: { path } }: Written): number => (path.at(-1) === '{key}' ? path.length : Infinity)
  for (const { place, text } of texts.toSorted((a, b) => Math.sign(depth(b) - depth(a)) || 0)) place.put(document, text)
  return document
}

/** Undefined when the schema refuses it. */
function parse(document: Document): Resource | undefined {
  try {
    return parseDocument(document)
  } catch (error) {
    if (error instanceof MeshError && error.code === 'resource_invalid') return undefined
    throw error
  }
}

// ---------------------------------------------------------------------------------------------- renderings

const ALLOWING = new Map<string, Value>([
  ['access/default', 'allow'],
  ['type', 'access'],
])

const SEALED = new Map<string, Value>([['sealed', ['0'.repeat(32), 'AA']]])

/**
 * The resource's states: itself, what it names, and a site for what shows in sites alone. Policies that the full documents do
 * not have are of the types that those have, each another one, since a site has one of each.
 */
export function statesFor(resource: Resource) {
  const { workspace, zone } = resource.metadata
  const stateFor = (kind: string, other: string, fields: ReadonlyMap<string, Value> = new Map()) =>
    stateOf(resourcePath({ workspace, zone, kind, name: other }), fields)
  const places = placesIn({ ...resource })
  const named = (test: (place: Place) => boolean): string[] => [...new Set(places.filter(test).map(({ text }) => text))]
  const isFull = (kind: string, other: string): boolean =>
    FULL_REFERENCES.some(({ path }) => path === resourcePath({ workspace: 'default', zone: '*', kind, name: other }))
  const strange = (kind: string, names: readonly string[]): string[] => names.filter((other) => !isFull(kind, other))
  const upstreams = named(({ path }) => path.at(-1) === 'upstream')
  const policies = named(({ pattern }) => /[pP]olicies\.\[\]$/.test(pattern))
  const secrets = named(({ path }) => resource.kind === 'Policy' && path.at(-1) === 'secret')
  const certificates = named(({ path }) => /^(?:certificate|ca|clientCertificate)$/.test(path.at(-1) ?? ''))
  const unused = FULL_REFERENCES.filter(
    ({ path }) => path.includes('/policy/') && !policies.includes(path.slice(path.lastIndexOf('/') + 1)),
  )
  const states = [
    stateOf(pathOf(resource), fieldsOf(resource)),
    ...strange('upstream', upstreams).map((other) => stateFor('upstream', other)),
    ...strange('policy', policies).map((other, index) => stateFor('policy', other, unused[index]?.fields ?? ALLOWING)),
    ...(needsSite(resource) ? [stateFor('site', GUARDED, guardedFields(resource))] : []),
    ...strange('certificate', certificates).map((other) => stateFor('certificate', other, CERTIFIED)),
    ...['key', ...strange('secret', secrets)].map((secret) => stateFor('secret', secret, SEALED)),
    ...FULL_REFERENCES,
  ]
  // The first of a path: an attacked one stands for its full document.
  return [...new Map(states.toReversed().map((state) => [state.path, state])).values()].toReversed()
}

const GUARDED = 'guarded'

function guardedPath({ metadata: { workspace, zone } }: Resource): string {
  return resourcePath({ workspace, zone, kind: 'site', name: GUARDED })
}

/** Whether it is text of nginx in a site alone. */
function needsSite({ kind, spec }: Resource): boolean {
  return kind === 'Policy' || kind === 'ZoneSettings' || (kind === 'Template' && spec['site'] !== undefined)
}

/** Of a site with such a policy, or made by such a template, in each sort of location. */
function guardedFields({ kind, metadata: { name }, spec: told }: Resource): Map<string, Value> {
  const routes = {
    proxy: { path: '/proxy/', proxy: { upstream: 'app' } },
    files: { path: '/files/', static: { root: '/srv/files' } },
    fixed: { path: '/fixed', return: { status: 200, body: 'fixed' } },
    own: { path: '/own', redirect: { to: '/fixed' }, ...(kind === 'Policy' ? { policies: [name] } : {}) },
  }
  const required = Object.entries((told['parameters'] ?? {}) as Record<string, { default?: unknown }>)
    .filter(([, parameter]) => parameter.default === undefined)
    .map(([parameter]) => [parameter, '3'])
  const named = { Policy: { policies: [name] }, Template: { template: { name, values: Object.fromEntries(required) } } }
  const spec = { hosts: ['guarded.example'], ...named[kind as 'Policy' | 'Template'], routes }
  return fieldsOf(parseDocument({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata: { name: GUARDED }, spec }))
}

/** All that the states render to on a node that serves every one of them. */
export function renderSelected(
  states: ReturnType<typeof statesFor>,
  { zone = '*', labels = {}, host = LAYOUT }: { zone?: string; labels?: Record<string, string>; host?: HostLayout },
) {
  // What the full documents refer to is for nodes with this label.
  const node = { places: [{ workspace: '*', zones: [zone === '*' ? 'eu' : zone] }], labels: { disk: 'ssd', ...labels } }
  const names = hostNamesOf(sliceOf(states, node))
  const addresses = new Map(names.map((name) => [name, [addressOf(name)]]))
  const secrets = new Map(states.map(({ path }) => [path, path.endsWith('/key') ? PAIR.key : USERS]))
  for (const [path, text] of FULL_SECRETS) secrets.set(path, text)
  const capabilities = withModules('http_lua', 'ndk_http')
  return renderStates(states, { node, host: { ...host, liveLane: false }, addresses, secrets, capabilities })
}

/** The texts of the resource's own unit and of nginx.conf, without what depends on digests. */
function renderDocument(resource: Resource): { text: string; problems: number } {
  const labels = (resource.spec['nodeSelector'] ?? {}) as Record<string, string>
  const { units, problems, generation } = renderSelected(statesFor(resource), { zone: resource.metadata.zone, labels })
  const shown = [pathOf(resource), ...(needsSite(resource) ? [guardedPath(resource)] : [])]
  const own = units.filter(({ path }) => shown.includes(resourceOf(path))).map(({ text }) => text)
  const main = withoutPrograms(generation.main).replace(/^ *include .*\n/gm, '')
  // Which number a condition or a location has depends on what it says.
  const text = [main, ...own]
    .join('\n')
    .replace(/[0-9a-f]{64}/g, 'digest')
    .replace(/(?:\b|(?<=cache_))nxmesh_(?:stream_)?[0-9a-f]{16}(?:_\d+(?![a-z]))?/g, 'nxmesh_condition')
    .replace(/((?:location|=|try_files \S+) @(?:drain|route|answer))_\d+/g, '$1')
    .replace(/\/error-\d+/g, '/error')
    .replace(/\bstream-[0-9a-f]{16}\b/g, 'stream')
  return { text, problems: problems.length }
}

// ---------------------------------------------------------------------------------------------- comparison

/** The tree with what snippets say in the places of their harmless names. */
function withSnippets(tree: readonly Directive[], snippets: ReadonlyMap<string, readonly Directive[]>): Directive[] {
  return tree.flatMap((each) => {
    const { block } = each
    return snippets.get(each.name) ?? (block === undefined ? each : { ...each, block: withSnippets(block, snippets) })
  })
}

const MAPS: ReadonlySet<string> = new Set(['map', 'geo', 'split_clients'])

/** The tree with the entries of maps as directives of one name. */
function withEntries(tree: readonly Directive[]): Directive[] {
  return tree.map(({ name, args, block }) => {
    if (block === undefined) return { name, args }
    if (!MAPS.has(name)) return { name, args, block: withEntries(block) }
    return {
      name,
      args,
      block: block.map((entry) => ({ name: MAP_ENTRY, args: [entryKey(entry.name), ...entry.args] })),
    }
  })
}

/** In which order conditions are asked, and who gets which share, depends on what other fields say. */
function entryKey(text: string): string {
  if (/^~\^[1.]+$/.test(text)) return text.split('').toSorted().join('')
  return /^(?:[\d.]+%|\*)$/.test(text) ? 'share' : text
}

interface Leaf {
  /** Name, number of arguments, and the names around it. */
  readonly head: string
  readonly name: string
  readonly args: readonly string[]
}

/** @throws Error when the trees differ in shape, or in an argument that is not what an attacked field is meant to be. */
function compare(found: readonly Directive[], expected: readonly Directive[], attacks: readonly Written[]): void {
  const shape = skeleton(found)
  const expectedShape = skeleton(expected)
  if (shape !== expectedShape) throw new Error(`other directives: ${difference(shape, expectedShape)}`)
  const removed = leavesOf(expected)
  const added = leavesOf(found).filter((leaf) => !take(removed, (other) => isEqual(leaf, other)))
  const meanings = attacks.flatMap(({ place, text }) => meaningsOf(place.pattern, text))
  const isIntended = (leaf: Leaf, before: Leaf): boolean => {
    const rest = [...before.args]
    return leaf.args
      .filter((arg) => !take(rest, (other) => other === arg))
      .every((arg) => meanings.some((meaning) => isMeant(meaning, leaf.name, arg)))
  }
  for (const leaf of added) {
    if (!take(removed, (before) => before.head === leaf.head && isIntended(leaf, before)))
      throw new Error(`an argument that is not meant: ${leaf.name} ${JSON.stringify(leaf.args)}`)
  }
}

function leavesOf(tree: readonly Directive[], around = ''): Leaf[] {
  return tree.flatMap(({ name, args, block }) => {
    const leaf = { head: `${around} ${name}/${args.length}`, name, args }
    return block === undefined ? [leaf] : [leaf, ...leavesOf(block, `${around} ${name}`)]
  })
}

function isEqual(a: Leaf, b: Leaf): boolean {
  return a.head === b.head && a.args.every((arg, index) => arg === b.args[index])
}

/** Removes the first that fits; false when none does. */
function take<T>(from: T[], fits: (each: T) => boolean): boolean {
  const index = from.findIndex(fits)
  if (index >= 0) from.splice(index, 1)
  return index >= 0
}

function difference(found: string, expected: string): string {
  const [there, wanted] = [found.split(' '), expected.split(' ')]
  const more = there.filter((part) => !take(wanted, (other) => other === part))
  return `more: ${more.slice(0, 5).join(' ') || 'none'}; fewer: ${wanted.slice(0, 5).join(' ') || 'none'}`
}
