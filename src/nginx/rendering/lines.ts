/**
 * nginx text as lines and blocks, indented for people. Knows no directive. A line may itself hold line feeds (a
 * snippet): only its first is indented, so that quoted text in it keeps its meaning.
 */

const INDENT = '    '

/** `head { ... }` */
export function block(head: string, lines: readonly string[]): string[] {
  return [`${head} {`, ...lines.map((line) => INDENT + line), '}']
}

/** The lines of a block that stands in none, as one: thousands are indented at once. */
export function oneLine(lines: readonly string[]): readonly string[] {
  return lines.length === 0 ? [] : [lines.join(`\n${INDENT}`)]
}

/** The lines when the condition holds. */
export function when(condition: boolean, ...lines: readonly string[]): readonly string[] {
  return condition ? lines : []
}

/** `name value;` when there is a value. */
export function directive(name: string, value: string | number | undefined): readonly string[] {
  return value === undefined ? [] : [`${name} ${value};`]
}

export function toText(lines: readonly string[]): string {
  return `${lines.join('\n')}\n`
}

/** The entries of a map in the order of their keys; none for undefined. */
export function sortedEntries(map: Readonly<Record<string, string>> | undefined): [string, string][] {
  return Object.entries(map ?? {}).toSorted(([a], [b]) => (a < b ? -1 : 1))
}
