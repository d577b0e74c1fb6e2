/**
 * The verb policy: grants of a workspace as YAML. Shows them so, tells what a file would change, and signs that. The signed
 * grants are the authority; a file is a way to write them. Which grants there are is proven by their bytes, so that no node
 * has another one taken away than the one that is shown.
 */

import type { GrantView } from '../../api/schemas.ts'
import { asMeshError, MeshError } from '../../errors.ts'
import type { Draft } from '../../core/authoring.ts'
import type { Author } from '../signing/author.ts'
import { usage, type Args, type Cli, type Verb } from '../cli.ts'
import { documentsOf, readSources } from '../resources/documents.ts'
import { opensAsMuch, scopeWords, type GrantScope } from './grant-scope.ts'
import { heldGrants, signInTurn, takeAway, tracesIn, type Held } from './held.ts'
import { noteOf } from '../resources/resources.ts'
import { barredAmong } from './revoked.ts'
import { tellExposed } from '../resources/secret.ts'
import { plain, short, toJson, toYaml } from '../terminal.ts'
import {
  comparePolicies,
  parsePolicy,
  policyDocuments,
  type PolicyDifference,
  type WorkspacePolicy,
} from './workspace-policy.ts'

const ACTIONS: Readonly<Record<string, (cli: Cli, args: Args) => Promise<void>>> = { show, diff, apply }

export const policyVerb: Verb = {
  name: 'policy',
  summary: 'write who may do what as YAML: show it, compare, apply',
  usage: ['policy show [-w NAME]', 'policy diff -f FILE', 'policy apply -f FILE [--prune [--yes]] [--dry-run]'],
  details: [
    'show prints the grants in force as documents of kind WorkspacePolicy, one for each workspace; * holds what is granted for all.',
    'apply signs what the file has and the mesh has not. With --prune it then revokes what the mesh has and the file has not, in the',
    'workspaces that the file is about: grant by grant, and what was done under them stays. Somebody whose scope changes is granted',
    'the new one before the old one goes. Your own grants, and what your role does not reach, are left alone and told. What takes all',
    'nodes of a document away, or more than half of its grants, it signs with --yes.',
  ].join('\n'),
  options: {
    filename: {
      type: 'string',
      short: 'f',
      multiple: true,
      value: 'FILE',
      description: 'a file, a folder, or - for standard input; may be repeated',
    },
    prune: { type: 'boolean', description: 'apply: also revoke what the file does not have' },
    yes: { type: 'boolean', description: 'apply --prune: also when most of what there is goes' },
    'dry-run': { type: 'boolean', description: 'apply: show what would be signed, and sign nothing' },
    note: { type: 'string', value: 'TEXT', description: 'why; kept in the history' },
  },
  examples: [
    'meshctl policy show > policy.yaml',
    'meshctl policy diff -f policy.yaml',
    'meshctl -k owner.key policy apply -f policy.yaml --prune --dry-run',
  ],
  async run(cli, args) {
    const [action] = args.expect('show|diff|apply') as [string]
    const run = Object.hasOwn(ACTIONS, action) ? ACTIONS[action] : undefined
    if (run === undefined) throw usage(`policy takes show, diff or apply, not ${action}`)
    await run(cli, args)
    return undefined
  },
}

async function show(cli: Cli): Promise<void> {
  const { workspace } = cli
  const held = await heldGrants(cli, (view) => workspace === undefined || view.workspace === workspace)
  const documents = policyDocuments(held.map(({ says }) => says))
  cli.out(cli.format === 'json' ? toJson(documents) : documents.map(toYaml).join('---\n'))
  if (documents.length === 0) cli.note('no grants')
}

async function diff(cli: Cli, args: Args): Promise<void> {
  const { missing, surplus, barred } = await compare(cli, await readPolicies(cli, args))
  tell(cli, { missing, barred, taken: surplus, spared: [] })
}

// ---------------------------------------------------------------------------------------------- apply

/** What a file and the mesh differ in. */
interface Difference extends PolicyDifference {
  /** In the file, and granted in vain: their keys were revoked. */
  readonly barred: readonly GrantScope[]
  /** In force in the workspaces of the file. */
  readonly held: readonly Held[]
}

interface Plan {
  readonly missing: readonly GrantScope[]
  readonly barred: readonly GrantScope[]
  readonly taken: readonly Held[]
  /** Not in the file, and left alone. */
  readonly spared: readonly { readonly held: Held; readonly why: string }[]
}

async function apply(cli: Cli, args: Args): Promise<void> {
  const policies = await readPolicies(cli, args)
  const note = noteOf(args)
  await cli.withAuthor(async (author) => {
    // What an earlier run signed, and the node did not answer, is there before it is asked what is missing.
    for (const { workspace } of policies) await author.catchUp(workspace)
    const difference = await compare(cli, policies)
    const plan = planFor(author, difference)
    const refused = plan.missing.flatMap((grant) => author.refusal(draftOf(grant, note)) ?? [])
    tell(cli, plan)
    if (refused.length > 0) {
      throw new MeshError('denied', `the file grants what your key may not:\n  ${refused.map(plain).join('\n  ')}`, {
        hint: 'Nothing was signed. Ask somebody with a wider grant, or use another key with -k.',
      })
    }
    if (plan.barred.length > 0) {
      const words = plan.barred.map((grant) => plain(scopeWords(grant)))
      throw new MeshError('denied', `the file grants to keys that were revoked:\n  ${words.join('\n  ')}`, {
        hint: 'Nothing was signed. A revoked key never comes back: make a new key for them (meshctl key new) and name it in the file.',
      })
    }
    if (args.flag('prune')) await tellExposed(cli, await losing(cli, plan))
    const drastic = args.flag('prune') ? drasticIn(plan, difference, policies) : undefined
    if (drastic !== undefined) cli.note(drastic)
    if (args.flag('dry-run')) return cli.note('dry run: nothing was signed')
    if (drastic !== undefined && !args.flag('yes'))
      throw usage('nothing was signed', 'Is the file whole? If that is what you mean, repeat it with --yes.')
    await signAll(cli, author, args.flag('prune') ? plan : { ...plan, taken: [] }, note)
    if (args.flag('prune') || plan.taken.length === 0) return undefined
    return cli.note(
      `not revoked, for want of --prune: ${countOf(plan.taken.length, 'grant')} that the file does not have`,
    )
  })
}

function planFor(author: Author, { missing, barred, surplus }: Difference): Plan {
  const judged = surplus.map((held) => ({ held, why: whySpared(author, held) }))
  return {
    missing,
    barred,
    taken: judged.filter(({ why }) => why === undefined).map(({ held }) => held),
    spared: judged.flatMap(({ held, why }) => (why === undefined ? [] : [{ held, why }])),
  }
}

/** Grants that go while their key keeps no other that opens the same secrets. */
async function losing(cli: Cli, { missing, taken }: Plan): Promise<GrantView[]> {
  const ids = new Set(taken.map(({ view }) => view.id))
  const keys = new Set(taken.map(({ says }) => says.subject))
  // Of all workspaces: what is granted for each of them may stand in the place of what goes.
  const held = await heldGrants(cli, ({ subject }) => keys.has(subject))
  const kept = [...held.filter(({ view }) => !ids.has(view.id)).map(({ says }) => says), ...missing]
  return taken
    .filter(({ says }) => !kept.some((grant) => grant.subject === says.subject && opensAsMuch(grant, says)))
    .map(({ view }) => view)
}

/** So many grants are a mesh of which half is not taken away by the way. */
const MANY_GRANTS = 4

/** What is likely to be an unfinished file rather than meant, in words. Who only changes scope is not counted. */
function drasticIn({ taken }: Plan, { held }: Difference, policies: readonly WorkspacePolicy[]): string | undefined {
  for (const { workspace, grants } of policies) {
    const isLost = ({ says }: Held): boolean =>
      !grants.some(({ subject, role }) => subject === says.subject && (role === 'node') === (says.role === 'node'))
    const own = held.filter(({ says }) => says.ws === workspace)
    const lost = taken.filter((each) => each.says.ws === workspace && isLost(each))
    const nodes = nodesAmong(own)
    const where = workspace === '*' ? 'of those for all workspaces' : `of workspace ${workspace}`
    if (nodes > 0 && nodesAmong(lost) === nodes) return `this takes away all ${countOf(nodes, 'node')} ${where}`
    if (own.length >= MANY_GRANTS && lost.length * 2 > own.length)
      return `this takes away ${lost.length} of ${countOf(own.length, 'grant')} ${where}`
  }
  return undefined
}

function nodesAmong(held: readonly Held[]): number {
  return held.filter(({ says }) => says.role === 'node').length
}

function whySpared(author: Author, { view, says }: Held): string | undefined {
  if (says.subject === author.publicKey) return 'it is your own'
  const draft: Draft = { type: 'revoke', ws: says.ws, note: '', target: `grant/${view.id}`, keep: [] }
  return author.refusal(draft, [view])
}

function draftOf(grant: GrantScope, note: string): Draft {
  return { type: 'grant', note, ...grant }
}

/** Grants first: nobody whose scope changes is without one in between. */
async function signAll(cli: Cli, author: Author, { missing, taken }: Plan, note: string): Promise<void> {
  if (missing.length + taken.length === 0) return undefined
  const grants = missing.map((grant) => ({
    what: `grant ${scopeWords(grant)}`,
    sign: () => author.send(draftOf(grant, note)),
  }))
  const traces = taken.length === 0 ? [] : await tracesIn(await cli.client())
  const revocations = taken.map(({ view, says }) => ({
    what: `revoke ${scopeWords(says)}`,
    sign: () => takeAway(cli, author, { target: `grant/${view.id}`, ws: view.workspace, of: [view], note }, traces),
  }))
  const counts = await signInTurn(cli, grants)
  if (!counts && revocations.length > 0) return cli.note('nothing is revoked before these grants count: run this again')
  await signInTurn(cli, revocations)
  cli.note(`signed: ${countOf(grants.length, 'grant')}, ${countOf(revocations.length, 'revocation')}`)
}

// ---------------------------------------------------------------------------------------------- reading and telling

async function readPolicies(cli: Cli, args: Args): Promise<WorkspacePolicy[]> {
  const files = args.list('filename')
  if (files.length === 0) throw usage('-f FILE is missing', 'Name a file, a folder, or - for standard input.')
  const sources = await readSources(files, (file) => cli.path(file), cli.host.stdin)
  const policies = new Map<string, WorkspacePolicy>()
  const faults: string[] = []
  for (const { from, read } of sources.flatMap(documentsOf)) {
    try {
      const policy = parsePolicy(read())
      if (policies.has(policy.workspace)) faults.push(`${from}: there is a policy of ${policy.workspace} already`)
      policies.set(policy.workspace, policy)
    } catch (error) {
      const { message, details } = asMeshError(error)
      faults.push(`${from}: ${message}${details.hint === undefined ? '' : ` (${details.hint})`}`)
    }
  }
  if (faults.length > 0) {
    throw new MeshError('resource_invalid', faults.map(plain).join('\n'), { hint: 'Nothing was changed.' })
  }
  if (policies.size === 0)
    throw new MeshError('input_invalid', 'there is no document in what was given', { field: '-f' })
  return [...policies.values()]
}

async function compare(cli: Cli, policies: readonly WorkspacePolicy[]): Promise<Difference> {
  const workspaces = new Set(policies.map(({ workspace }) => workspace))
  const held = await heldGrants(cli, ({ workspace }) => workspaces.has(workspace))
  const { missing, surplus } = comparePolicies(policies, held)
  const barred = await barredAmong(await cli.client(), missing)
  return { missing: missing.filter((grant) => !barred.includes(grant)), barred, surplus, held }
}

function tell(cli: Cli, { missing, barred, taken, spared }: Plan): void {
  const { paint } = cli
  for (const grant of missing) cli.out(`${paint.green('+')} grant ${plain(scopeWords(grant))}\n`)
  for (const { view, says } of taken) {
    cli.out(`${paint.red('-')} revoke ${plain(scopeWords(says))} (grant ${short(view.id)})\n`)
  }
  for (const grant of barred) {
    cli.out(`${paint.yellow('!')} cannot be: ${plain(scopeWords(grant))}, because its key was revoked\n`)
  }
  for (const { held, why } of spared) {
    cli.out(`${paint.yellow('!')} left alone: ${plain(scopeWords(held.says))}, because ${plain(why)}\n`)
  }
  const counts = `${missing.length} to grant, ${taken.length} to revoke`
  cli.out(missing.length + taken.length + barred.length === 0 ? 'nothing to change\n' : `${counts}\n`)
}

function countOf(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}
