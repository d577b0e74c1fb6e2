/**
 * The verb policy: grants of a workspace as YAML. Shows them so, tells what a file would change, and signs that. The signed
 * grants are the authority; a file is a way to write them. Which grants there are is proven by their bytes, so that no node
 * has another one taken away than the one that is shown.
 */

import type { GrantView } from '../api/schemas.ts'
import { asMeshError, MeshError } from '../errors.ts'
import type { Draft } from '../core/authoring.ts'
import type { Author } from './author.ts'
import { usage, type Args, type Cli, type Verb } from './cli.ts'
import { documentsOf, readSources } from './documents.ts'
import { scopeWords, type GrantScope, type Held } from './grant-scope.ts'
import { heldGrants, signInTurn, takeAway } from './held.ts'
import { noteOf } from './resources.ts'
import { tellExposed } from './secret.ts'
import { plain, short, toJson, toYaml } from './terminal.ts'
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
  usage: ['policy show [-w NAME]', 'policy diff -f FILE', 'policy apply -f FILE [--prune] [--dry-run]'],
  details: [
    'show prints the grants in force as documents of kind WorkspacePolicy, one for each workspace; * holds what is granted for all.',
    'apply signs what the file has and the mesh has not. With --prune it then revokes what the mesh has and the file has not, in the',
    'workspaces that the file is about: grant by grant, and what was done under them stays. Somebody whose scope changes is granted',
    'the new one before the old one goes. Your own grants, and what your role does not reach, are left alone and told.',
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
  const { missing, surplus } = await compare(cli, await readPolicies(cli, args))
  tell(cli, { missing, taken: surplus, spared: [] })
}

// ---------------------------------------------------------------------------------------------- apply

interface Plan {
  readonly missing: readonly GrantScope[]
  readonly taken: readonly Held[]
  /** Not in the file, and left alone. */
  readonly spared: readonly { readonly held: Held; readonly why: string }[]
}

async function apply(cli: Cli, args: Args): Promise<void> {
  const policies = await readPolicies(cli, args)
  const difference = await compare(cli, policies)
  const note = noteOf(args)
  await cli.withAuthor(async (author) => {
    const plan = planFor(author, difference)
    const refused = plan.missing.flatMap((grant) => author.refusal(draftOf(grant, note)) ?? [])
    tell(cli, plan)
    if (refused.length > 0) {
      throw new MeshError('denied', `the file grants what your key may not:\n  ${refused.map(plain).join('\n  ')}`, {
        hint: 'Nothing was signed. Ask somebody with a wider grant, or use another key with -k.',
      })
    }
    if (args.flag('prune')) await tellExposed(cli, leaving(plan, policies))
    if (args.flag('dry-run')) return cli.note('dry run: nothing was signed')
    await signAll(cli, author, args.flag('prune') ? plan : { ...plan, taken: [] }, note)
    if (args.flag('prune') || plan.taken.length === 0) return undefined
    return cli.note(
      `not revoked, for want of --prune: ${countOf(plan.taken.length, 'grant')} that the file does not have`,
    )
  })
}

function planFor(author: Author, { missing, surplus }: PolicyDifference): Plan {
  const judged = surplus.map((held) => ({ held, why: whySpared(author, held) }))
  return {
    missing,
    taken: judged.filter(({ why }) => why === undefined).map(({ held }) => held),
    spared: judged.flatMap(({ held, why }) => (why === undefined ? [] : [{ held, why }])),
  }
}

/** What goes of those whom the files do not name at all. */
function leaving({ taken }: Plan, policies: readonly WorkspacePolicy[]): GrantView[] {
  const named = new Set(policies.flatMap(({ grants }) => grants.map(({ subject }) => subject)))
  return taken.filter(({ says }) => !named.has(says.subject)).map(({ view }) => view)
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
  const client = await cli.client()
  const grants = missing.map((grant) => ({
    what: `grant ${scopeWords(grant)}`,
    sign: () => author.send(draftOf(grant, note)),
  }))
  const revocations = taken.map(({ view, says }) => ({
    what: `revoke ${scopeWords(says)}`,
    sign: () => takeAway(client, author, { target: `grant/${view.id}`, ws: view.workspace, of: [view], note }),
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

async function compare(cli: Cli, policies: readonly WorkspacePolicy[]): Promise<PolicyDifference> {
  const workspaces = new Set(policies.map(({ workspace }) => workspace))
  return comparePolicies(policies, await heldGrants(cli, ({ workspace }) => workspaces.has(workspace)))
}

function tell(cli: Cli, { missing, taken, spared }: Plan): void {
  const { paint } = cli
  for (const grant of missing) cli.out(`${paint.green('+')} grant ${plain(scopeWords(grant))}\n`)
  for (const { view, says } of taken) {
    cli.out(`${paint.red('-')} revoke ${plain(scopeWords(says))} (grant ${short(view.id)})\n`)
  }
  for (const { held, why } of spared) {
    cli.out(`${paint.yellow('!')} left alone: ${plain(scopeWords(held.says))}, because ${plain(why)}\n`)
  }
  const counts = `${missing.length} to grant, ${taken.length} to revoke`
  cli.out(missing.length + taken.length === 0 ? 'nothing to change\n' : `${counts}\n`)
}

function countOf(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}
