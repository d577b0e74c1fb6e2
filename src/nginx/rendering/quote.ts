/**
 * The only way by which a value becomes part of nginx text. Whatever the value, it stays one parameter of the directive
 * that it was put into. Each position takes one of three readings of `$`: plain, literal, template. Pure.
 */

import { isFault, parseGroupsTemplate, parseTemplate, type GroupsPart } from '../../core/resources/fields.ts'

/** A variable that holds a dollar sign, since nginx has no escape for one; main-conf.ts defines it. */
export const DOLLAR_VARIABLE = 'nxmesh_dollar'

/** nginx reads a parameter into a buffer of 4,096 bytes and refuses a longer one. */
const MAX_PARAMETER_BYTES = 4000

/** A value that cannot be said to nginx, though it is valid in itself. */
export class UnquotableError extends Error {}

/** One parameter where nginx gives `$` no meaning: a location, a host name, a path of an include. */
export function plain(text: string): string {
  return parameter(text)
}

/** One parameter where nginx would expand variables; `$` in the text stays a dollar sign. */
export function literal(text: string): string {
  return parameter(literalText(text))
}

/** One parameter in which the variables of a checked template are expanded. */
export function template(text: string): string {
  return parameter(templateText(text))
}

/** A regular expression as the last word in the parentheses of an `if`: in quotes, so that they do not stick to it. */
export function conditionRegex(text: string): string {
  const bare = parameter(text)
  return bare.startsWith('"') ? bare : `"${bare}"`
}

/** As `template`, where `$1` to `$9` are the groups of a regular expression as well. */
export function groupTemplate(text: string): string {
  return parameter(templateText(text, true))
}

/** As `groupTemplate`, for the new path of a rewrite. A final `?` keeps nginx from adding the request's query. */
export function rewriteTarget(text: string, keepQuery: boolean): string {
  return parameter(`${templateText(text, true)}${keepQuery ? '' : '?'}`)
}

/** A template followed by a variable of the renderer's own choice. */
export function templateThen(text: string, variable: string): string {
  return parameter(`${templateText(text)}$${variable}`)
}

/** Variables of the renderer's own choice, and a checked template, as one parameter in which nothing of one reads as part of another. */
export function keyTemplate(variables: readonly string[], text: string): string {
  return parameter([...variables.map((variable) => `\${${variable}}`), templateText(text)].join(' '))
}

/** A literal text followed by a variable of the renderer's own choice, or by a group. */
export function literalThen(text: string, variable: string): string {
  return parameter(`${literalText(text)}$${variable}`)
}

/** A variable of the renderer's own choice followed by a literal text. */
export function variableThen(variable: string, text: string): string {
  return parameter(`$${variable}${literalText(text)}`)
}

/** A string of a Lua program in nginx's text: names that the renderer has made, which need no escapes. */
export function luaString(name: string): string {
  if (!/^[A-Za-z0-9_.:-]*$/.test(name)) throw new UnquotableError(`${JSON.stringify(name)} in a Lua program`)
  return `"${name}"`
}

/** Escapes a text for a regular expression of nginx, which has to be quoted still. */
export function escapeRegex(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
}

function literalText(text: string): string {
  return text.replaceAll('$', `\${${DOLLAR_VARIABLE}}`)
}

function templateText(text: string, groups = false): string {
  const parts = groups ? parseGroupsTemplate(text) : parseTemplate(text)
  if (isFault(parts)) throw new UnquotableError(`${JSON.stringify(text)} ${parts.message}`)
  const [only] = parts
  // Bare, as a person would write it: braces are for a variable that text follows.
  if (parts.length === 1 && only !== undefined && 'variable' in only) return `$${only.variable}`
  return parts.map(partText).join('')
}

function partText(part: GroupsPart): string {
  if ('text' in part) return literalText(part.text)
  // nginx reads one digit, and knows no group in braces.
  return 'group' in part ? `$${part.group}` : `\${${part.variable}}`
}

/** In double quotes nginx reads \\ \" \n \t as what they say, and leaves everything else alone. */
function parameter(text: string): string {
  const quoted = /^[A-Za-z0-9_./:@*^+,=~$[\]-]+$/.test(text) ? text : `"${text.replace(/["\\\n\t]/g, escape)}"`
  if (/[\0-\x08\x0b-\x1f\x7f-\x9f]/.test(text))
    throw new UnquotableError(`${JSON.stringify(text.slice(0, 60))} has control characters`)
  const bytes = Buffer.byteLength(quoted)
  if (bytes > MAX_PARAMETER_BYTES) {
    throw new UnquotableError(
      `a text of ${bytes} bytes as nginx reads it; at most ${MAX_PARAMETER_BYTES} are possible (a $ takes 16)`,
    )
  }
  return quoted
}

function escape(character: string): string {
  if (character === '\n') return '\\n'
  return character === '\t' ? '\\t' : `\\${character}`
}
