/**
 * Who may come in, and how often, as Policy resources: allow and deny, lists of users, limits of requests and connections.
 * What a policy cannot say in exactly the same meaning stays nginx text. Pure; called by import-site.ts and import-location.ts.
 */

import { BlockList, isIP } from 'node:net'
import { judgeHash, judgeUser, USERS_MAX } from '../../core/resources/policies/basic-auth.ts'
import type { PolicyTypeName } from '../../core/resources/policy.ts'
import type { Tree } from '../../core/resources/kind.ts'
import type { Definitions } from './definitions.ts'
import { faultOfSpec } from './faults.ts'
import { wholeOf } from './fields.ts'
import { Names } from './names.ts'
import type { Directive } from './parse.ts'
import type { SecretsToSeal } from './secrets-to-seal.ts'

/** The directives of each policy type, and which of them a level replaces as a whole. */
const GROUPS = {
  access: /^(?:allow|deny)$/,
  basicAuth: /^auth_basic(?:_user_file)?$/,
  rateLimit: /^limit_req(?:_status|_log_level|_dry_run)?$/,
  connectionLimit: /^limit_conn(?:_status|_log_level|_dry_run)?$/,
} as const satisfies Partial<Record<PolicyTypeName, RegExp>>

type GroupName = keyof typeof GROUPS
const GROUP_NAMES = Object.keys(GROUPS) as readonly GroupName[]
/** What changes a request, or answers it, before nginx looks who asks; `if` of a policy would come before it. */
const REWRITES = /^(?:return|rewrite|if)$/

/** What a server says of who may come in, as far as policies can say it. */
export interface ServerPolicies {
  /** Taken from the server: each location says it, as a policy or as text. */
  readonly carried: readonly Directive[]
  /** Those of groups that stay the server's text, and what says how they go together. */
  readonly texts: readonly Directive[]
}

export interface RoutePolicies {
  readonly names: readonly string[]
  /** What stays text of the location: its own, and what it would have taken over. */
  readonly text: readonly Directive[]
}

export class Policies {
  readonly #names = new Names('policy')
  readonly #byContent = new Map<string, string>()
  readonly #specs = new Map<string, Tree>()
  readonly #definitions: Definitions
  readonly #secrets: SecretsToSeal
  readonly #read: (path: string) => string | undefined
  /** Which limits each zone is counted for, as text; of several, no policy can say it. */
  readonly #limitsByZone = new Map<string, Set<string>>()
  readonly #excluded: ReadonlySet<string>

  /** @param excluded zones that have to stay text */
  constructor(
    definitions: Definitions,
    secrets: SecretsToSeal,
    read: (path: string) => string | undefined,
    excluded: ReadonlySet<string>,
  ) {
    this.#definitions = definitions
    this.#secrets = secrets
    this.#read = read
    this.#excluded = excluded
  }

  /** Specs by resource name. */
  get specs(): ReadonlyMap<string, Tree> {
    return this.#specs
  }

  /** That policies count in. */
  get zones(): readonly string[] {
    return [...this.#limitsByZone.keys()]
  }

  /** Zones that policies count in, which text or another policy counts in, too: the two would not know of each other. */
  shared(textZones: ReadonlySet<string>): string[] {
    return [...this.#limitsByZone].flatMap(([zone, limits]) => (limits.size > 1 || textZones.has(zone) ? zone : []))
  }

  /** @param server all directives that hold in the server */
  ofServer(server: readonly Directive[]): ServerPolicies {
    const carried = GROUP_NAMES.flatMap((name): readonly Directive[] => {
      const own = server.filter((each) => GROUPS[name].test(each.name))
      return this.#specOf(name, own, server) === undefined ? [] : own
    })
    const isCarried = new Set(carried)
    return {
      carried,
      texts: server.filter((each) => each.name === 'satisfy' || (isOfGroup(each) && !isCarried.has(each))),
    }
  }

  /**
   * @param own of the location
   * @param isFixed whether the answer is there already: nginx gives it before it looks at most of these
   */
  ofLocation(own: readonly Directive[], server: ServerPolicies, isFixed: boolean): RoutePolicies {
    const names: string[] = []
    const text: Directive[] = []
    const all = [...server.texts, ...inForce(own, server.carried)]
    for (const name of GROUP_NAMES) {
      const group = inForce(own, server.carried).filter((each) => GROUPS[name].test(each.name))
      if (group.length === 0) continue
      const isElsewhere = server.texts.some((each) => GROUPS[name].test(each.name))
      const isPossible =
        !isFixed &&
        !isElsewhere &&
        (name !== 'access' || !own.some((each) => REWRITES.test(each.name) || /^(?:set_)?real_ip/.test(each.name)))
      const policy = isPossible ? this.#policyOf(name, group, [...all, ...own]) : undefined
      if (policy === undefined) text.push(...group)
      else if (policy !== '') names.push(policy)
    }
    return { names, text }
  }

  /** Empty where nobody is kept out. */
  #policyOf(type: GroupName, group: readonly Directive[], around: readonly Directive[]): string | undefined {
    const found = this.#specOf(type, group, around)
    if (found === undefined) return undefined
    if (found.spec === undefined) return ''
    const content = JSON.stringify([type, found.spec])
    for (const zone of found.zones ?? [])
      this.#limitsByZone.set(zone, (this.#limitsByZone.get(zone) ?? new Set()).add(content))
    const known = this.#byContent.get(content)
    if (known !== undefined) return known
    const spec = found.file === undefined ? found.spec : { ...found.spec, secret: this.#secrets.of(...found.file) }
    const name = this.#names.take(found.name)
    this.#byContent.set(content, name)
    this.#specs.set(name, { [type]: spec })
    return name
  }

  /** Undefined where no policy can say it; without a spec where it keeps nobody out. */
  #specOf(type: GroupName, group: readonly Directive[], around: readonly Directive[]): Found | undefined {
    if (around.some(({ name }) => name === 'satisfy')) return undefined
    const found = this.#foundFor(type, group, around)
    if (found?.spec === undefined) return found
    const whole = found.file === undefined ? found.spec : { ...found.spec, secret: 'it' }
    return faultOfSpec('Policy', { [type]: whole }) === undefined ? found : undefined
  }

  #foundFor(type: GroupName, group: readonly Directive[], around: readonly Directive[]): Found | undefined {
    if (type === 'access')
      return around.some(({ name }) => /^limit_(?:req|conn)$/.test(name)) ? undefined : accessOf(group)
    if (type === 'basicAuth') return this.#basicAuthOf(group)
    return this.#limitsOf(type, group, around)
  }

  #basicAuthOf(group: readonly Directive[]): Found | undefined {
    const [realm] = group.findLast(({ name }) => name === 'auth_basic')?.args ?? []
    const [file] = group.findLast(({ name }) => name === 'auth_basic_user_file')?.args ?? []
    if (realm === undefined || realm === 'off') return { name: '', spec: undefined }
    if (file === undefined || /\$/.test(realm + file) || !hasKnownUsers(this.#read(file))) return undefined
    const base = file.replace(/^.*\//, '')
    return { name: `users-${base}`, spec: { realm }, file: [file, base] }
  }

  #limitsOf(
    type: 'rateLimit' | 'connectionLimit',
    group: readonly Directive[],
    around: readonly Directive[],
  ): Found | undefined {
    const word = type === 'rateLimit' ? 'limit_req' : 'limit_conn'
    const lines = group.filter(({ name }) => name === word)
    if (lines.length === 0) return { name: '', spec: undefined }
    const last = (name: string): string | undefined => around.findLast((each) => each.name === name)?.args[0]
    const limits: Tree = {}
    const zones: string[] = []
    for (const { args } of lines) {
      const [zone, limit] = type === 'rateLimit' ? rateOf(args) : connectionsOf(args)
      const counted =
        zone === undefined || this.#excluded.has(zone) ? undefined : this.#definitions.zone(zone, `${word}_zone`)
      if (zone === undefined || limit === undefined || counted === undefined) return undefined
      zones.push(zone)
      limits[zone] = { ...counted, ...limit }
    }
    const dryRun = last(`${word}_dry_run`) === 'on' ? { dryRun: true } : {}
    // Of nginx itself it is 503, which no policy answers.
    const status = wholeOf(last(`${word}_status`) ?? '503')
    return { name: zones.join('-'), spec: { status, ...dryRun, limits }, zones }
  }
}

interface Found {
  readonly name: string
  readonly spec: Tree | undefined
  /** What it has to be sealed, and the name for that. */
  readonly file?: readonly [file: string, wanted: string]
  readonly zones?: readonly string[]
}

export function isOfGroup({ name }: Directive): boolean {
  return GROUP_NAMES.some((group) => GROUPS[group].test(name))
}

/** Of a location: its own, and those of the server of which it has none. */
function inForce(own: readonly Directive[], carried: readonly Directive[]): readonly Directive[] {
  const listOf = (name: string): string => (name === 'deny' ? 'allow' : name)
  const taken = carried.filter(({ name }) => !own.some((each) => listOf(each.name) === listOf(name)))
  return [...taken, ...own.filter(isOfGroup)]
}

/** What a location as text has to say itself. */
export function policyTextOf(own: readonly Directive[], { carried }: ServerPolicies): readonly Directive[] {
  return inForce(own, carried).filter((each) => !own.includes(each))
}

// ---------------------------------------------------------------------------------------------- access

function accessOf(group: readonly Directive[]): Found | undefined {
  const lists = accessListsOf(group)
  if (lists === undefined) return undefined
  const { allow, deny, rest } = lists
  if (rest === 'allow' && deny.length === 0) return { name: '', spec: undefined }
  const spec = {
    ...(allow.length === 0 ? {} : { allow: [...allow] }),
    ...(deny.length === 0 ? {} : { deny: [...deny] }),
    default: rest,
  }
  if (rest === 'allow') return { name: `not-${deny[0]}`, spec }
  return { name: allow.length === 0 ? 'nobody' : `only-${allow[0]}`, spec }
}

interface AccessLists {
  readonly allow: readonly string[]
  readonly deny: readonly string[]
  /** Of those in neither list. */
  readonly rest: 'allow' | 'deny'
}

/**
 * Lists in which the smallest network that fits counts, as in policies; in nginx it is the first. What an earlier one covers
 * never counts, and is left out. Undefined where something else than an address or a network is listed.
 */
export function accessListsOf(group: readonly Directive[]): AccessLists | undefined {
  const lists = { allow: [] as string[], deny: [] as string[] }
  for (const { name, args } of group) {
    const list = name as 'allow' | 'deny'
    const [network = ''] = args
    if (network === 'all') return { ...lists, rest: list }
    const parts = partsOf(network)
    if (parts === undefined) return undefined
    const { address, length, widest } = parts
    const known = [...lists.allow, ...lists.deny]
    if (!known.some((each) => covers(each, network))) lists[list].push(length === widest ? address : network)
  }
  return { ...lists, rest: 'allow' }
}

/** Whether all addresses of the second network are of the first, too. */
export function covers(first: string, second: string): boolean {
  const [outer, inner] = [partsOf(first), partsOf(second)]
  if (outer === undefined || inner === undefined || outer.family !== inner.family || outer.length > inner.length)
    return false
  const list = new BlockList()
  list.addSubnet(outer.address, outer.length, outer.family)
  return list.check(inner.address, inner.family)
}

function partsOf(network: string) {
  const [address = '', digits, more] = network.split('/')
  const family = isIP(address) === 6 ? 'ipv6' : 'ipv4'
  const widest = family === 'ipv6' ? 128 : 32
  const length = digits === undefined ? widest : wholeOf(digits)
  if (isIP(address) === 0 || length === undefined || length > widest || more !== undefined) return undefined
  return { address, length, widest, family } as const
}

// ---------------------------------------------------------------------------------------------- users, limits

/** Whether a policy lets in whom nginx does. */
function hasKnownUsers(text: string | undefined): boolean {
  const lines = (text ?? '').split(/\r?\n/).filter((line) => line.trim() !== '' && !line.startsWith('#'))
  const users = lines.map((line) => {
    const colon = line.indexOf(':')
    return [line.slice(0, Math.max(0, colon)), line.slice(colon + 1)] as const
  })
  const isKnown = users.every(([user, hash]) => judgeUser(user) === undefined && judgeHash(hash) === undefined)
  return (
    isKnown &&
    users.length > 0 &&
    users.length <= USERS_MAX &&
    new Set(users.map(([user]) => user)).size === users.length
  )
}

function rateOf(args: readonly string[]): readonly [zone: string | undefined, limit?: Tree] {
  const value = (name: string): string | undefined =>
    args.find((arg) => arg.startsWith(`${name}=`))?.slice(name.length + 1)
  const zone = value('zone')
  const burst = wholeOf(value('burst') ?? '0')
  const delay = args.includes('nodelay') ? undefined : wholeOf(value('delay') ?? '0')
  const isKnown = args.every((arg) => /^(?:nodelay|(?:zone|burst|delay)=.*)$/.test(arg))
  if (!isKnown || burst === undefined) return [zone]
  return [zone, burst === 0 ? {} : { burst, ...(delay === undefined ? {} : { delayAfter: delay }) }]
}

function connectionsOf([zone, count = '', ...more]: readonly string[]): readonly [
  zone: string | undefined,
  limit?: Tree,
] {
  const max = wholeOf(count)
  return max === undefined || more.length > 0 ? [zone] : [zone, { max }]
}
