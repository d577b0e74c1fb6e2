/** The verbs on resources: apply, diff, get, delete, edit. From YAML to signed edits and back. */

import { LIMITS, type Value } from '../../core/envelope.ts'
import { parseResourcePath, workspaceOf, type ResourceName } from '../../core/names.ts'
import { ABSENT, editsOf, pack, planDelete, planFields, type Change, type Current } from '../../core/plan.ts'
import { nearestName } from '../../core/nearest-name.ts'
import { documentOf, KINDS, kindOf, type Resource } from '../../core/resources/index.ts'
import { SETTINGS_WORKSPACE } from '../../core/slice.ts'
import { MeshError } from '../../errors.ts'
import type { ResourceView } from '../../api/schemas.ts'
import type { Author } from '../signing/author.ts'
import { durationMs, usage, type Args, type Cli, type OptionSpecs, type Verb } from '../cli.ts'
import type { ApiClient } from '../asking/client.ts'
import { parseSources, readSources, type Wanted } from './documents.ts'
import { editFields, planEdit } from './editor.ts'
import { lackingLines } from '../hosts/hosts-lacking.ts'
import { sealedWords, showChange, summary } from './plan.ts'
import { affectedLines } from './sites-affected.ts'
import { plain, short, span, table, toJson, toYaml, type Cell } from '../terminal.ts'
import { waitUntilApplied } from './wait.ts'

const FILES: OptionSpecs = {
  filename: {
    type: 'string',
    short: 'f',
    multiple: true,
    value: 'FILE',
    description: 'a file, a folder, or - for standard input; may be repeated',
  },
}
const NOTE: OptionSpecs = { note: { type: 'string', value: 'TEXT', description: 'why; kept in the history' } }
const WAIT: OptionSpecs = {
  wait: { type: 'boolean', description: 'wait until every live node of the zones has applied it' },
  timeout: { type: 'string', value: 'TIME', description: 'how long to wait (default 60s)' },
}

/** More resources than this are read in pages of whole workspaces. */
const READS_ONE_BY_ONE = 100
/** Requests under way at once. */
const READS_AT_ONCE = 8

export const applyVerb: Verb = {
  name: 'apply',
  summary: 'make resources as the given YAML says',
  usage: ['apply -f FILE|FOLDER|- [--wait [--timeout 60s]] [--dry-run]'],
  details: [
    'Checks every document first; shows what changes in each resource; signs and sends the changes, upstreams before sites.',
    'Fields that the YAML does not mention are removed. Somebody else’s edit of other fields at the same time is kept.',
  ].join('\n'),
  options: {
    ...FILES,
    ...NOTE,
    ...WAIT,
    'dry-run': { type: 'boolean', description: 'show the changes and make none' },
  },
  examples: ['meshctl apply -f site.yaml --wait', 'cat *.yaml | meshctl apply -f - --dry-run'],
  async run(cli, args) {
    args.expect()
    const wanted = await readWanted(cli, args)
    const plan = (): Promise<Change[]> => planAll(cli, wanted)
    if (args.flag('dry-run')) return showPlan(cli, await plan(), 'dry run: nothing was changed')
    await write(cli, args, plan)
    if (args.flag('wait')) await waitFor(cli, args, wanted)
    return undefined
  },
}

export const diffVerb: Verb = {
  name: 'diff',
  summary: 'show what apply would change',
  usage: ['diff -f FILE|FOLDER|-'],
  options: FILES,
  examples: ['meshctl diff -f sites/'],
  async run(cli, args) {
    args.expect()
    return showPlan(cli, await planAll(cli, await readWanted(cli, args)), '')
  },
}

export const planVerb: Verb = {
  name: 'plan',
  summary: 'show what apply would change, which sites with it, and which hosts could not do it',
  usage: ['plan -f FILE|FOLDER|-'],
  details: [
    'Like diff; and which other sites would change, by a template, a policy or defaults, and which of all would be refused.',
    'And for each node of the zones, what its nginx lacks for these resources, by the version and modules that it tells of.',
    'Nodes that were never heard are not judged. Nothing is changed.',
  ].join('\n'),
  options: FILES,
  examples: ['meshctl plan -f sites/'],
  async run(cli, args) {
    args.expect()
    const wanted = await readWanted(cli, args)
    showPlan(cli, await planAll(cli, wanted), '')
    const client = await cli.client()
    const lines = [
      ...affectedLines(wanted, await readReached(client, wanted)),
      ...lackingLines(wanted, await client.receipts()),
    ]
    cli.out(lines.map((line) => `${cli.paint.red('!')} ${plain(line)}\n`).join(''))
    return undefined
  },
}

export const deleteVerb: Verb = {
  name: 'delete',
  summary: 'delete resources',
  usage: ['delete KIND NAME', 'delete -f FILE|FOLDER|-'],
  options: { ...FILES, ...NOTE, ...WAIT },
  examples: ['meshctl delete site web -z eu.west', 'meshctl delete -f site.yaml'],
  async run(cli, args) {
    const paths =
      args.list('filename').length > 0
        ? (await readWanted(cli, args)).map(({ path }) => path)
        : [await namedPath(cli, args)]
    await write(cli, args, async () => {
      const currents = await readCurrents(await cli.client(), paths)
      return paths.map((path, index) => planDelete(path, currents[index] as Current))
    })
    if (args.flag('wait')) await waitUntilApplied(cli, paths, timeoutOf(args))
    return undefined
  },
}

export const getVerb: Verb = {
  name: 'get',
  summary: 'list or show resources',
  usage: ['get KIND|all [NAME] [-o table|wide|yaml|json]'],
  details: 'With -o yaml the output can be applied again as it is.',
  options: {},
  examples: ['meshctl get sites', 'meshctl get site web -o yaml', 'meshctl get all -z eu.west -o wide'],
  async run(cli, { positionals }) {
    const [kindName, name] = positionals
    if (kindName === undefined || positionals.length > 2) throw usage(`get takes KIND [NAME]; kinds: ${kindWords()}`)
    const kind = kindName === 'all' ? undefined : knownKind(kindName)
    const found = await (await cli.client()).resources({ workspace: cli.workspace, zone: cli.zone, kind, name })
    if (name !== undefined && found.length === 0) throw await notFound(cli, kindName, name)
    cli.out(listing(cli, found, name !== undefined))
    const why = found.length === 0 ? await emptyWorkspace(cli) : undefined
    if (why !== undefined) cli.note(why)
    return undefined
  },
}

export const editVerb: Verb = {
  name: 'edit',
  summary: 'change one resource in an editor',
  usage: ['edit KIND NAME'],
  details: [
    'Opens $VISUAL or $EDITOR (else vi) with the resource as YAML. What cannot be accepted opens again, with the reason on top.',
    'Only the fields that you change are written. If somebody else changes one of the same fields meanwhile, nothing is sent.',
  ].join('\n'),
  options: { ...NOTE, ...WAIT },
  examples: ['meshctl edit site web -z eu.west'],
  async run(cli, args) {
    const path = await namedPath(cli, args)
    const client = await cli.client()
    const [before] = (await readCurrents(client, [path])) as [Current]
    const after = await editFields(cli, path, before)
    if (after === undefined) {
      cli.note('nothing was changed')
      return undefined
    }
    await write(cli, args, async () => {
      const [now] = (await readCurrents(client, [path])) as [Current]
      return [planEdit(path, before, after.fields, now, after.draft)]
    })
    await after.discard()
    if (args.flag('wait')) await waitUntilApplied(cli, [path], timeoutOf(args))
    return undefined
  },
}

// ---------------------------------------------------------------------------------------------- planning and writing

async function readWanted(cli: Cli, args: Args): Promise<Wanted[]> {
  const files = args.list('filename')
  if (files.length === 0) throw usage('-f FILE is missing', 'Name a file, a folder, or - for standard input.')
  const sources = await readSources(files, (file) => cli.path(file), cli.host.stdin)
  return parseSources(sources, { workspace: cli.workspace, zone: cli.zone })
}

async function planAll(cli: Cli, wanted: readonly Wanted[]): Promise<Change[]> {
  const currents = await readCurrents(
    await cli.client(),
    wanted.map(({ path }) => path),
  )
  return wanted.map(({ path, fields }, index) => planFields(path, currents[index] as Current, fields))
}

/** All that there is in the workspaces whose sites these resources may change; defaults for all of them are in one. */
async function readReached(client: ApiClient, wanted: readonly Wanted[]): Promise<ResourceView[]> {
  const names = wanted.map(({ path }) => parseResourcePath(path) as ResourceName)
  const isForAll = names.some(({ workspace, kind }) => workspace === SETTINGS_WORKSPACE && kind === 'zonesettings')
  if (isForAll) return await client.resources({})
  const views = await client.resources({ workspace: SETTINGS_WORKSPACE, kind: 'zonesettings' })
  for (const workspace of new Set(names.map((name) => name.workspace)))
    views.push(...(await client.resources({ workspace })))
  return views
}

/** What the node has of each path, in their order. */
export async function readCurrents(client: ApiClient, paths: readonly string[]): Promise<Current[]> {
  const views = new Map<string, ResourceView>()
  if (paths.length > READS_ONE_BY_ONE) {
    for (const workspace of new Set(paths.map(workspaceOf))) {
      for (const view of await client.resources({ workspace })) views.set(view.path, view)
    }
  }
  // Pages hold what exists; a deleted resource has heads too.
  const others = paths.filter((path) => !views.has(path))
  for (let start = 0; start < others.length; start += READS_AT_ONCE) {
    const some = await Promise.all(others.slice(start, start + READS_AT_ONCE).map((path) => client.resource(path)))
    for (const view of some) if (view !== undefined) views.set(view.path, view)
  }
  return paths.map((path) => {
    const view = views.get(path)
    return view === undefined ? ABSENT : currentOf(view)
  })
}

function currentOf({ exists, fields, heads, conflicts }: ResourceView): Current {
  const entries = Object.entries(fields).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return { exists, fields: new Map(entries as [string, Value][]), heads, conflicts: Object.keys(conflicts) }
}

export function showPlan(cli: Cli, changes: readonly Change[], remark: string): undefined {
  const shown = changes.filter(({ action }) => action !== 'keep')
  cli.out(shown.map((change) => showChange(change, cli.paint)).join(''))
  cli.out(`${summary(changes)}\n`)
  if (remark !== '') cli.note(remark)
  return undefined
}

/** Shows a plan, signs what changes and sends it. Also for secrets and adopted edits. `plan` is asked again when the node has learned something first. */
export async function write(
  cli: Cli,
  args: Args,
  plan: () => Promise<Change[]>,
  note: string = noteOf(args),
): Promise<void> {
  const first = await plan()
  if (first.every(({ action }) => action === 'keep')) {
    cli.out(`${summary(first)}\n`)
    return
  }
  await cli.withAuthor(async (author) => {
    const workspaces = new Set(first.map(({ path }) => workspaceOf(path)))
    let hasTaught = false
    for (const workspace of workspaces) hasTaught = (await author.catchUp(workspace)) || hasTaught
    const changes = hasTaught ? await plan() : first
    showPlan(cli, changes, '')
    await sendAll(cli, author, changes, note)
  })
}

async function sendAll(cli: Cli, author: Author, changes: readonly Change[], note: string): Promise<void> {
  const written = new Map<string, string>()
  const batches = pack(changes)
  for (const [index, batch] of batches.entries()) {
    const draft = { type: 'edit', ws: batch.workspace, note, edits: editsOf(batch, written) } as const
    const { id, isWaiting } = await author.send(draft).catch((error: unknown) => {
      if (index > 0) cli.note(`${index} of ${batches.length} edits were sent before this failed; apply again to go on`)
      throw error
    })
    for (const { path } of batch.pieces) written.set(path, id)
    const resources = batch.pieces.length === 1 ? '1 resource' : `${batch.pieces.length} resources`
    cli.note(
      `${isWaiting ? 'held back by the node until it has caught up' : 'stored'}: edit ${short(id)} (${resources})`,
    )
  }
}

export function noteOf(args: Args): string {
  const note = args.text('note') ?? ''
  if (Buffer.byteLength(note) > LIMITS.noteBytes) throw usage(`--note is over ${LIMITS.noteBytes} bytes`)
  return note
}

function timeoutOf(args: Args): number {
  return durationMs(args.text('timeout') ?? '60s', '--timeout')
}

async function waitFor(cli: Cli, args: Args, wanted: readonly Wanted[]): Promise<void> {
  await waitUntilApplied(
    cli,
    wanted.map(({ path }) => path),
    timeoutOf(args),
  )
}

// ---------------------------------------------------------------------------------------------- finding

function kindWords(): string {
  return [...[...KINDS.values()].map(({ plural }) => plural), 'all'].join(', ')
}

function knownKind(name: string): string {
  const kind = kindOf(name)
  if (kind !== undefined) return kind.path
  const close = nearestName(
    name,
    [...KINDS.values()].flatMap(({ path, plural }) => [path, plural]),
  )
  throw usage(`there is no kind ${name}`, close === undefined ? `Kinds: ${kindWords()}.` : `Did you mean ${close}?`)
}

/** The one resource that the arguments mean. */
async function namedPath(cli: Cli, args: Args): Promise<string> {
  const [kindName, name] = args.expect('KIND', 'NAME') as [string, string]
  return await findPath(cli, kindName, name)
}

/** The one resource of this kind and name, given -w and -z. @throws MeshError `not_found`, `usage` when there are several. */
export async function findPath(cli: Cli, kindName: string, name: string): Promise<string> {
  const kind = knownKind(kindName)
  const found = await (await cli.client()).resources({ workspace: cli.workspace, zone: cli.zone, kind, name })
  const [only, ...others] = found
  if (only === undefined) throw await notFound(cli, kindName, name)
  if (others.length > 0) {
    throw usage(
      `${kindName} ${name} is in several places: ${found.map(({ path }) => path).join(', ')}`,
      'Say which with -w and -z.',
    )
  }
  return only.path
}

async function notFound(cli: Cli, kind: string, name: string): Promise<MeshError> {
  const { workspace, zone } = cli
  const where = `${workspace === undefined ? '' : ` in workspace ${workspace}`}${zone === undefined ? '' : ` in zone ${zone}`}`
  const why = await emptyWorkspace(cli)
  return new MeshError('not_found', `there is no ${kind} ${name}${where}${why === undefined ? '' : `: ${why}`}`, {
    hint: `See what there is: meshctl get ${kind}`,
  })
}

/** So many are named; the others are counted. */
const NAMED_WORKSPACES = 20

/** That the workspace of -w holds nothing, as far as the node knows, and which ones there are; undefined when it holds something. */
async function emptyWorkspace(cli: Cli): Promise<string | undefined> {
  const { workspace } = cli
  if (workspace === undefined) return undefined
  const all = await (await cli.client()).workspaces()
  const found = all.find(({ name }) => name === workspace)
  if (found !== undefined && found.resources > 0) return undefined
  const count = (n: number): string => (n === 0 ? 'none' : n === 1 ? '1 resource' : `${n} resources`)
  const some = all.slice(0, NAMED_WORKSPACES).map(({ name, resources }) => `${name} (${count(resources)})`)
  const known = plain([...some, ...(all.length > some.length ? [`${all.length - some.length} more`] : [])].join(', '))
  return found === undefined
    ? `this node knows no workspace ${plain(workspace)}; it knows ${known}`
    : `the workspace ${workspace} has no resources; this node knows ${known}`
}

// ---------------------------------------------------------------------------------------------- showing

export function documentOfView({ path, fields }: ResourceView): Resource {
  return documentOf(parseResourcePath(path) as ResourceName, new Map(Object.entries(fields) as [string, Value][]))
}

function listing(cli: Cli, found: readonly ResourceView[], isNamed: boolean): string {
  const documents = found.map(documentOfView)
  if (cli.format === 'json') return toJson(isNamed && documents.length === 1 ? documents[0] : documents)
  if (cli.format === 'yaml') return documents.map(toYaml).join('---\n')
  if (found.length === 0) return 'no resources\n'
  const isWide = cli.format === 'wide'
  const headers = [
    'KIND',
    'NAME',
    'WORKSPACE',
    'ZONE',
    'AGE',
    'ABOUT',
    'NOTES',
    ...(isWide ? ['CREATED BY', 'HEADS', 'HASH'] : []),
  ]
  return table(
    headers,
    found.map((view) => row(cli, view, isWide)),
  )
}

function row({ host, paint }: Cli, view: ResourceView, isWide: boolean): Cell[] {
  const conflicts = Object.keys(view.conflicts).length
  const notes = [
    conflicts > 0 ? `${conflicts} in conflict` : '',
    view.lost.length > 0 ? `${view.lost.length} lost` : '',
    view.excessive.length > 0 ? `${view.excessive.length} ignored` : '',
  ]
  const age = view.created === null ? '' : span(host.clock.now() - view.created.at)
  const wide = [short(view.created?.by ?? ''), view.heads.map(short).join(' '), short(view.hash)]
  return [
    view.kind,
    view.name,
    view.workspace,
    view.zone,
    age,
    about(view),
    { text: notes.filter((note) => note !== '').join(', '), colour: paint.yellow },
    ...(isWide ? wide : []),
  ]
}

/** What a person looks for in a list: host names of a site, endpoints of an upstream, who can open a secret. */
function about({ kind, fields, spec }: ResourceView): string {
  if (kind === 'secret') return sealedWords(new Map(Object.entries(fields) as [string, Value][]))
  const keys = (value: unknown): string[] => {
    if (Array.isArray(value)) return value.map(String)
    return typeof value === 'object' && value !== null ? Object.keys(value) : []
  }
  const items = [...keys(spec?.['hosts']), ...keys(spec?.['endpoints'])]
  return items.length > 3 ? `${items.slice(0, 3).join(' ')} +${items.length - 3}` : items.join(' ')
}
