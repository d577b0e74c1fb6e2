/**
 * Variables of one site, which nginx computes when they are asked for: conditions of routes, which route of a path
 * counts, and which upstream of a split. Variables are of all sites together, so their names hold a hash of the site's path. Pure; called by
 * render-site.ts.
 */

import { sha256 } from '../../core/canonical.ts'
import { perObject } from '../../core/memo.ts'
import { conditionsOf, requestVariable, type Condition } from '../../core/resources/conditions.ts'
import type { Route, RouteGroup, SiteSpec } from '../../core/resources/site.ts'
import { isSplit, sharesOf } from '../../core/resources/split.ts'
import type { StickyCookie } from '../../core/resources/upstream.ts'
import { block, when } from './lines.ts'
import { maintenanceKey, splitKey } from './live.ts'
import { flagLine, splitLine } from './live-program.ts'
import { escapeRegex, plain, template } from './quote.ts'
import { bounded, judgedLines, sought } from './regex.ts'

/** How many variables the site may take at most: each is room in every request of every site. */
export const variableDemand = perObject(({ routes, maintenance }: SiteSpec): number => {
  const counts = Object.values(routes).map((route) => {
    const conditions = conditionsOf(route.when).length
    return (conditions > 0 ? conditions + 1 : 0) + (route.action === 'proxy' ? splitDemand(route.proxy) : 0)
  })
  return counts.reduce((sum, count) => sum + count, maintenance === undefined ? 0 : 2)
})

type Proxy = (Route & { action: 'proxy' })['proxy']

function splitDemand(proxy: Proxy): number {
  const names = [proxy.sticky?.cookie, proxy.sticky?.header, proxy.force?.cookie, proxy.force?.header]
  return isSplit(proxy) ? 1 + names.filter((name) => name !== undefined).length : 0
}

const WHOLES: ReadonlyMap<string, readonly string[]> = new Map([
  ['0.0.0.0/0', ['0.0.0.0/1', '128.0.0.0/1']],
  ['::/0', ['::/1', '8000::/1']],
])

export class SiteMaps {
  readonly #path: string
  readonly #scope: string
  /** By IDs of routes that split and whose shares are not in the text. */
  readonly #settings = new Map<string, { readonly variable: string; readonly line: string }>()
  /** Names by what they are computed from, so that equal ones are one. */
  readonly #names = new Map<string, string>()
  readonly #lines: string[] = []

  constructor(sitePath: string) {
    this.#path = sitePath
    this.#scope = `nxmesh_${sha256(sitePath).slice(0, 16)}`
  }

  /** To stand before the server block. */
  get lines(): readonly string[] {
    return this.#lines
  }

  /**
   * The variable that holds the number, from 1, of the route that counts; 0 where no conditions hold. The lines refuse, before
   * anything else, what an expression could not judge: the next route may be one with less protection.
   */
  choiceOf({ routes }: RouteGroup): { readonly variable: string; readonly refusal: readonly string[] } {
    const conditions = routes.map(([, route]) => conditionsOf(route.when))
    const needs = conditions.map((own) => own.map((condition) => this.#conditionVariable(condition)))
    const mayGiveUp = conditions.flat().some((condition) => 'regex' in condition)
    const variables = [...new Set(needs.flat())]
    // One digit for each condition; the first pattern that fits counts.
    const patterns = needs.map((own, index) => {
      const digits = variables.map((variable) => (own.includes(variable) ? '1' : '.')).join('')
      return `${plain(`~^${digits}`)} ${index + 1};`
    })
    const source = `"${variables.map((variable) => `$${variable}`).join('')}"`
    const lines = ['default 0;', ...when(mayGiveUp, '~2 unjudged;'), ...patterns]
    const variable = this.#define(`map ${source}`, lines)
    return { variable, refusal: when(mayGiveUp, `if ($${variable} = unjudged) { return 400; }`) }
  }

  /**
   * Where a proxy passes a request: the name of an upstream's block, or a variable that holds one.
   * @param blocks names of blocks by what the route calls the upstream
   * @param live the route's ID where shares change without a reload: then settingOf() has to stand before the proxy
   */
  target(proxy: Proxy, blocks: ReadonlyMap<string, string>, live?: string): string {
    const shares = sharesOf(proxy).map((share) => ({ ...share, block: blocks.get(share.upstream) as string }))
    const taking = shares.filter(({ parts }) => parts > 0)
    const last = taking.pop() as (typeof shares)[0]
    let found = last.block
    if (live !== undefined && isSplit(proxy)) {
      const client = this.#clientVariable(proxy)
      found = `$${this.#settings.get(live)?.variable ?? this.#liveSplit(live, client, shares)}`
    } else if (taking.length > 0) {
      // In the order of IDs, so that a change of weights moves few clients. The same for all routes of the site with the
      // same split; other sites choose other clients.
      const lines = taking.map(({ parts, block: name }) => `${(parts / 100).toFixed(2)}% ${plain(name)};`)
      const head = `split_clients "$${this.#clientVariable(proxy)} ${this.#scope}"`
      found = `$${this.#define(head, [...lines, `* ${plain(last.block)};`])}`
    }
    const forced = shares
      .filter(({ id }) => id !== '')
      .map(({ id, block: name }) => `${plain(`~^${id}\\z`)} ${plain(name)};`)
    // The cookie is looked at when there is no such header.
    for (const variable of isSplit(proxy) ? requestVariables(proxy.force).toReversed() : [])
      found = `$${this.#define(`map $${variable}`, [`default ${found};`, ...forced])}`
    return found
  }

  #liveSplit(id: string, client: string, shares: readonly { readonly block: string }[]): string {
    const variable = `${this.#scope}_split_${this.#settings.size + 1}`
    const blocks = shares.map(({ block }) => block)
    const line = splitLine(variable, splitKey(this.#path, id, blocks), client, this.#scope, blocks[0] as string)
    this.#settings.set(id, { variable, line })
    return variable
  }

  /** What has to stand where the target of the route with this ID is used, before any rewrite. */
  settingOf(id: string): readonly string[] {
    const line = this.#settings.get(id)?.line
    return line === undefined ? [] : [line]
  }

  /** The variable that is not empty while the site is in maintenance and not for these clients, and the line that sets it. */
  liveMaintenance(allow: readonly string[]): { readonly variable: string; readonly line: string } {
    const variable = `${this.#scope}_maintenance`
    return { variable, line: flagLine(variable, maintenanceKey(this.#path), this.outside(allow)) }
  }

  /** What a client is told by. */
  #clientVariable({ sticky }: Proxy): string {
    // The header is looked at when there is no such cookie.
    return requestVariables(sticky).reduce((otherwise, variable) => {
      return this.#define(`map $${variable}`, [`default $${variable};`, `"" $${otherwise};`])
    }, 'remote_addr')
  }

  /** The variable that holds the cookie to give to a client that has none; empty for the others. */
  stickyCookie({ cookie, maxAge, secure, sameSite }: StickyCookie): string {
    const parts = [
      `${cookie}=$request_id`,
      'Path=/',
      'HttpOnly',
      ...(maxAge === undefined ? [] : [`Max-Age=${maxAge}`]),
      ...(secure ? ['Secure'] : []),
      `SameSite=${sameSite.replace(/^./, (letter) => letter.toUpperCase())}`,
    ]
    const entry = `"" ${template(parts.join('; '))};`
    return this.#shared(`map $${requestVariable('cookie_', cookie)}`, ['default "";', entry])
  }

  /** The name of a format of the log that is made of these parameters. */
  logFormat(parameters: readonly string[]): string {
    const name = `${this.#scope}_log`
    const line = `log_format ${name} escape=json ${parameters.join(' ')};`
    if (!this.#lines.includes(line)) this.#lines.push(line)
    return name
  }

  /** The variable that is 1 for so many of a hundred requests, and empty for the others. */
  sample(percent: number): string {
    return this.#shared('split_clients $request_id', [`${percent}% 1;`, '* "";'])
  }

  /** The variable that is http where the target is one of these blocks, else https. */
  schemeOf(target: string, plainBlocks: readonly string[]): string {
    return this.#define(`map ${target}`, ['default https;', ...plainBlocks.map((name) => `${plain(name)} http;`)])
  }

  /** The variable that is 0 for clients of these networks and 1 for all others. */
  outside(networks: readonly string[]): string {
    return this.#define('geo', ['default 1;', ...networkLines(networks, 0)])
  }

  /** A path that no request is for, since only this renderer knows it; the same for the same site. */
  innerPath(name: string): string {
    return `/${this.#scope}/${name}`
  }

  #conditionVariable(condition: Condition): string {
    return this.#define(`map $${condition.variable}`, conditionLines(condition))
  }

  /** As #define, of one name in all sites that say the same, so that it is one variable for all of them. */
  #shared(head: string, lines: readonly string[]): string {
    const name = `nxmesh_${sha256([head, ...lines].join('\n')).slice(0, 16)}`
    if (!this.#names.has(name)) this.#lines.push(...block(`${head} $${name}`, lines))
    this.#names.set(name, name)
    return name
  }

  #define(head: string, lines: readonly string[]): string {
    const key = [head, ...lines].join('\n')
    const known = this.#names.get(key)
    if (known !== undefined) return known
    const name = `${this.#scope}_${this.#names.size + 1}`
    this.#names.set(key, name)
    this.#lines.push(...block(`${head} $${name}`, lines))
    return name
  }
}

/** Lines of a geo that give these networks a value. */
export function networkLines(networks: Iterable<string>, value: 0 | 1): readonly string[] {
  // To nginx the whole is the same as default, and a duplicate: it is told as two halves.
  const told = [...networks].toSorted().flatMap((each) => WHOLES.get(each) ?? [each])
  return [...new Set(told)].map((each) => `${plain(each)} ${value};`)
}

/** Of the header, then of the cookie. */
function requestVariables({
  cookie,
  header,
}: { cookie?: string | undefined; header?: string | undefined } = {}): string[] {
  return [
    ...(header === undefined ? [] : [requestVariable('http_', header)]),
    ...(cookie === undefined ? [] : [requestVariable('cookie_', cookie)]),
  ]
}

/** A map compares texts without regard to case, so that equality is told by an expression. */
function conditionLines(condition: Condition): readonly string[] {
  if ('present' in condition) {
    const { present } = condition
    return [`default ${present ? 1 : 0};`, `"" ${present ? 0 : 1};`]
  }
  if ('exact' in condition)
    return ['default 0;', `${plain(`~^(?:${condition.exact.map(escapeRegex).join('|')})\\z`)} 1;`]
  return judgedLines(`~${bounded(sought(condition.regex))}`, 2)
}
