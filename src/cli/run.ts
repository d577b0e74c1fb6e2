/**
 * meshctl as a function: arguments, environment and streams in, exit code out. Finds the verb, parses its options, prints
 * errors with their way out. Called by meshctl.ts and by tests.
 */

import { parseArgs } from 'node:util'
import { nearestName } from '../core/nearest-name.ts'
import { asMeshError, ERROR_CODES, MeshError } from '../errors.ts'
import { VERSION } from '../version.ts'
import { grantVerb, revokeVerb } from './grants/authority.ts'
import { Args, Cli, usage, type Verb } from './cli.ts'
import { generalHelp, GLOBAL_OPTIONS, verbHelp } from './help.ts'
import type { CliHost } from './host.ts'
import { adoptVerb, conflictsVerb, orphansVerb, whoCanVerb } from './observing/audit.ts'
import { importVerb } from './importing/import.ts'
import { approveVerb, denyVerb, inviteVerb, pendingVerb } from './hosts/invite.ts'
import { initVerb, keyVerb } from './keys/keys.ts'
import { nodeVerb } from './hosts/nodes.ts'
import { logVerb, peersVerb, statusVerb, watchVerb } from './observing/observe.ts'
import { policyVerb } from './grants/policy.ts'
import { pushVerb } from './signing/push.ts'
import { applyVerb, deleteVerb, diffVerb, editVerb, getVerb, planVerb } from './resources/resources.ts'
import { cosignVerb, rootVerb } from './keys/root.ts'
import { refoundVerb } from './keys/refound.ts'
import { rotateVerb } from './keys/rotate.ts'
import { secretVerb } from './resources/secret.ts'
import { plain } from './terminal.ts'
import { tokenVerb } from './asking/token.ts'
import { exportVerb, verifyVerb } from './observing/verify.ts'

/** Every verb, in the order of `meshctl help`. */
export const VERBS: readonly Verb[] = [
  applyVerb,
  diffVerb,
  planVerb,
  getVerb,
  editVerb,
  deleteVerb,
  importVerb,
  secretVerb,
  statusVerb,
  peersVerb,
  watchVerb,
  logVerb,
  whoCanVerb,
  conflictsVerb,
  orphansVerb,
  adoptVerb,
  verifyVerb,
  exportVerb,
  keyVerb,
  tokenVerb,
  initVerb,
  grantVerb,
  revokeVerb,
  policyVerb,
  rotateVerb,
  rootVerb,
  cosignVerb,
  refoundVerb,
  inviteVerb,
  pendingVerb,
  approveVerb,
  denyVerb,
  nodeVerb,
  pushVerb,
]

/** As shells have it for a program that Ctrl-C ended. */
const INTERRUPTED = 130

/** Runs one command; its exit code. Never throws. */
export async function run(host: CliHost): Promise<number> {
  try {
    return await dispatch(host)
  } catch (error) {
    if (host.signal.aborted) return INTERRUPTED
    const meshError = asMeshError(error)
    host.stderr.write(errorText(meshError))
    return ERROR_CODES[meshError.code].exit
  }
}

async function dispatch(host: CliHost): Promise<number> {
  const { verbName, rest } = findVerb(host.argv)
  if (verbName === undefined) {
    const { values } = parse(rest, undefined)
    if (values['version'] === true) {
      host.stdout.write(`${VERSION}\n`)
      return 0
    }
    const isAsked = values['help'] === true
    const stream = isAsked ? host.stdout : host.stderr
    stream.write(generalHelp(VERBS))
    return isAsked ? 0 : ERROR_CODES.usage.exit
  }
  if (verbName === 'help') {
    const [name] = parse(rest, undefined).positionals
    host.stdout.write(name === undefined ? generalHelp(VERBS) : verbHelp(verbOf(name)))
    return 0
  }
  const verb = verbOf(verbName)
  const { values, positionals } = parse(rest, verb)
  if (values['help'] === true) {
    host.stdout.write(verbHelp(verb))
    return 0
  }
  const args = new Args(positionals, values)
  return (await verb.run(new Cli(host, args), args)) ?? 0
}

/** The first argument that is neither an option nor the value of one; only options of every verb may stand before it. */
function findVerb(argv: readonly string[]): { verbName: string | undefined; rest: string[] } {
  for (let index = 0; index < argv.length; index += 1) {
    const word = argv[index] as string
    if (!word.startsWith('-')) return { verbName: word, rest: argv.toSpliced(index, 1) }
    const takesValue = Object.entries(GLOBAL_OPTIONS).some(
      ([name, { type, short }]) => type === 'string' && (word === `--${name}` || word === `-${short}`),
    )
    if (takesValue) index += 1
  }
  return { verbName: undefined, rest: [...argv] }
}

function verbOf(name: string): Verb {
  const verb = VERBS.find((known) => known.name === name)
  if (verb !== undefined) return verb
  const close = nearestName(
    name,
    VERBS.map((known) => known.name),
  )
  throw usage(
    `there is no verb ${name}`,
    close === undefined ? 'See: meshctl help' : `Did you mean ${close}? See: meshctl help`,
  )
}

/** @param verb whose options may stand there beside the global ones. */
function parse(
  argv: readonly string[],
  verb: Verb | undefined,
): { values: Record<string, unknown>; positionals: string[] } {
  const options = { ...GLOBAL_OPTIONS, ...verb?.options }
  const config = Object.fromEntries(
    Object.entries(options).map(([name, { type, short, multiple = false }]) => [
      name,
      { type, multiple, ...(short === undefined ? {} : { short }) },
    ]),
  )
  try {
    const { values, positionals } = parseArgs({
      args: [...argv],
      options: config,
      allowPositionals: true,
      strict: true,
    })
    return { values, positionals }
  } catch (error) {
    const { message } = error as Error
    const [, unknown] = /^Unknown option '([^']+)'/.exec(message) ?? []
    const see = `See: meshctl help${verb === undefined ? '' : ` ${verb.name}`}`
    if (unknown === undefined) {
      const [, valueless] = /^Option '([^']+?)(?: <value>)?' argument (?:missing|is ambiguous)/.exec(message) ?? []
      const what = valueless === undefined ? (message.split(/\.\s/)[0] as string) : `${valueless} needs a value`
      throw new MeshError('usage', what, { hint: see }, error)
    }
    const what =
      verb === undefined ? `there is no option ${unknown} before a verb` : `${verb.name} has no option ${unknown}`
    const meant = likelyOption(unknown, Object.keys(options))
    throw new MeshError('usage', what, { hint: meant === undefined ? see : `Did you mean ${meant}? ${see}` }, error)
  }
}

/** The option that was likely meant: of this verb, or else of others. */
function likelyOption(unknown: string, own: readonly string[]): string | undefined {
  const name = unknown.replace(/^-+/, '')
  const close = nearestName(name, own)
  if (close !== undefined) return `--${close}`
  const elsewhere = nearestName(
    name,
    VERBS.flatMap(({ options }) => Object.keys(options)),
  )
  const verbs = VERBS.filter(({ options }) => elsewhere !== undefined && Object.hasOwn(options, elsewhere))
  return elsewhere === undefined ? undefined : `--${elsewhere} of ${verbs.map(({ name }) => name).join(', ')}`
}

/** What people see of an error: what happened, and the way out. Its words may be a peer's. */
function errorText({ message, details }: MeshError): string {
  const lines = message.split('\n').map(plain)
  const hint = details.hint === undefined ? '' : `  ${plain(details.hint)}\n`
  return `meshctl: ${lines.join('\n')}\n${hint}`
}
