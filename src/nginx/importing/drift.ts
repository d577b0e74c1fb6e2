/**
 * A file of a generation that somebody edited by hand, as an edit of its resource: what was added becomes text of the
 * site or of a route, a server of an upstream becomes its endpoint. The rest is told, for a person to say in fields. Pure; called by meshctl import.
 */

import type { Tree } from '../../core/resources/kind.ts'
import { bounded } from '../rendering/regex.ts'
import type { Finding } from './findings.ts'
import { Findings } from './findings.ts'
import { endpointOf } from './import-upstream.ts'
import { matchOf } from './location-match.ts'
import { toText, type Directive } from './parse.ts'

export interface Adoption {
  /** As authored, with what was taken. */
  readonly spec: Tree
  readonly taken: readonly Finding[]
  readonly left: readonly Finding[]
}

/**
 * @param spec of the resource as it stands now
 * @param rendered what the file said before it was edited
 */
export function adoptDrift(spec: Tree, rendered: readonly Directive[], edited: readonly Directive[]): Adoption {
  const findings = new Findings()
  const adopted = structuredClone(spec)
  const { added, removed } = difference(rendered, edited)
  for (const directive of [...added, ...removed].filter(({ block }) => block === undefined))
    findings.lose(directive, 'it stands in http: say it in httpSnippets of the zone settings')
  for (const block of added.filter((each) => each.block !== undefined)) {
    const twin = removed.find((each) => head(each) === head(block))
    if (twin === undefined) findings.lose(block, 'no resource has a place for a block of http')
    else if (block.name === 'server') adoptServer(adopted, twin, block, findings)
    else if (block.name === 'upstream') adoptUpstream(adopted, twin, block, findings)
    else findings.lose(block, 'it follows from fields of the resource: change those')
  }
  for (const block of removed.filter(
    (each) => each.block !== undefined && !added.some((one) => head(one) === head(each)),
  ))
    findings.lose(block, 'it was removed by hand: delete the resource if that is meant')
  return { spec: adopted, taken: findings.kept, left: findings.lost }
}

function adoptServer(spec: Tree, rendered: Directive, edited: Directive, findings: Findings): void {
  const { added, removed } = difference(rendered.block ?? [], edited.block ?? [])
  const privileged = below(spec, 'privileged')
  const text: Directive[] = []
  for (const directive of added) {
    const twin = removed.find((each) => head(each) === head(directive) && each.block !== undefined)
    if (directive.name !== 'location' || twin === undefined) {
      if (removed.some(({ name }) => name === directive.name)) loseChange(directive, findings)
      else text.push(directive)
      continue
    }
    const id = routeOf(spec, directive)
    const inner = difference(twin.block ?? [], directive.block ?? [])
    for (const each of inner.removed) loseChange(each, findings)
    const more = inner.added.filter(({ name }) => !inner.removed.some((each) => each.name === name))
    if (more.length === 0) continue
    // The twin of a location is edited together with it, or not at all.
    if (id === undefined) for (const each of more) findings.lose(each, 'the location is no route of the resource now')
    else append(below(privileged, 'routeSnippets'), id, more, findings)
  }
  for (const directive of removed) {
    if (!added.some((each) => head(each) === head(directive) || each.name === directive.name))
      loseChange(directive, findings)
  }
  if (text.length > 0) append(privileged, 'serverSnippet', text, findings)
  if (Object.keys(privileged).length === 0) delete spec['privileged']
}

function adoptUpstream(spec: Tree, rendered: Directive, edited: Directive, findings: Findings): void {
  const { added, removed } = difference(rendered.block ?? [], edited.block ?? [])
  const endpoints = below(spec, 'endpoints')
  for (const directive of [...removed, ...added]) {
    const [address = ''] = directive.args
    const isGone = removed.includes(directive)
    if (directive.name !== 'server') loseChange(directive, findings)
    else if (isGone && !Object.hasOwn(endpoints, address))
      findings.lose(directive, 'it is the address of a host name: change the endpoint of that name')
    else if (isGone) delete endpoints[address]
    else {
      const endpoint = endpointOf(directive, findings)
      if (endpoint === undefined) findings.lose(directive, 'it is no address with a port')
      else {
        endpoints[address] = endpoint
        findings.keep(directive, `endpoints."${address}"`)
      }
    }
  }
}

function append(tree: Tree, key: string, directives: readonly Directive[], findings: Findings): void {
  const before = typeof tree[key] === 'string' ? tree[key].replace(/\n?$/, '\n') : ''
  tree[key] = before + toText(directives)
  for (const directive of directives) findings.keep(directive, `privileged text of ${key}`)
}

function loseChange(directive: Directive, findings: Findings): void {
  findings.lose(directive, 'what is rendered was changed or removed: change the field that says it')
}

function below(tree: Tree, key: string): Tree {
  return (tree[key] ??= {}) as Tree
}

/** The ID of the route that a location is; none for the parts of one with conditions, and for twins. */
function routeOf(spec: Tree, location: Directive): string | undefined {
  const { modifier, path } = matchOf(location)
  const match = modifier === '=' ? 'exact' : modifier.startsWith('~') ? 'regex' : 'prefix'
  const routes = Object.entries((spec['routes'] ?? {}) as Record<string, Tree>)
  const textOf = (route: Tree): unknown => (match === 'regex' ? bounded(String(route['path'])) : route['path'])
  const found = routes.filter(([, route]) => textOf(route) === path && (route['match'] ?? 'prefix') === match)
  return found.length === 1 ? found[0]?.[0] : undefined
}

/** What stands in one list and not in the other, however often. */
function difference(before: readonly Directive[], after: readonly Directive[]) {
  const rest = before.map((directive) => ({ directive, text: toText([directive]) }))
  const added = after.filter((directive) => {
    const index = rest.findIndex(({ text }) => text === toText([directive]))
    if (index >= 0) rest.splice(index, 1)
    return index < 0
  })
  return { added, removed: rest.map(({ directive }) => directive) }
}

/** What a block is told apart by: a location by its path, an upstream by its name. */
function head({ name, args, block }: Directive): string {
  return block === undefined ? toText([{ name, args, raw: args, file: '', line: 1 }]) : [name, ...args].join(' ')
}
