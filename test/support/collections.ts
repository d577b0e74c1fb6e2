/**
 * How large everything is that an object holds: every Map, Set, array and table within it, private fields included, by the
 * path that leads there. For tests of what must not grow; it needs no word of the code that it looks into.
 */

import { Session, type Runtime } from 'node:inspector'

/** Keys of a plain object from which on it is a table and not a record. */
const TABLE_FROM = 32
/** Parts of a path: whatever lies deeper was met nearer by, or is somebody else's. */
const DEPTH_MAX = 12

/** Sizes by path; `*` stands for all members of a collection, whose sizes are added up. Functions and what they close over are not seen. */
export function collectionSizes(root: object): Map<string, number> {
  const privateFields = new PrivateFields()
  const sizes = new Map<string, number>()
  const met = new Set<object>()
  const queue: [path: string[], object: unknown][] = [[[], root]]
  for (const [path, object] of queue) {
    if (typeof object !== 'object' || object === null || met.has(object) || path.length > DEPTH_MAX) continue
    met.add(object)
    const members = membersOf(object)
    if (members !== undefined) {
      sizes.set(path.join('.'), (sizes.get(path.join('.')) ?? 0) + members.length)
      for (const member of members) queue.push([[...path, '*'], member])
    } else if (!ArrayBuffer.isView(object)) {
      const fields = [...Object.entries(Object.getOwnPropertyDescriptors(object)), ...privateFields.of(object)]
      for (const [name, { value }] of fields) queue.push([[...path, name], value])
    }
  }
  privateFields.close()
  return sizes
}

/** The paths of what has grown by `least` or more, with both sizes. */
export function grown(
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
  least: number,
): string[] {
  return [...after]
    .filter(([path, size]) => size - (before.get(path) ?? 0) >= least)
    .map(([path, size]) => `${path}: ${before.get(path) ?? 0} to ${size}`)
}

/** Undefined for what is no collection. */
function membersOf(object: object): unknown[] | undefined {
  if (object instanceof Map) return [...object].map(([key, value]) => (typeof key === 'object' ? [key, value] : value))
  if (object instanceof Set || Array.isArray(object)) return [...object]
  const isPlain = [Object.prototype, null].includes(Object.getPrototypeOf(object) as object | null)
  const values = isPlain ? Object.values(Object.getOwnPropertyDescriptors(object)) : []
  return values.length >= TABLE_FROM ? values.map(({ value }) => value as unknown) : undefined
}

/** Reads private fields as a debugger does: nothing else can. */
class PrivateFields {
  readonly #session = new Session()
  readonly #slot: { object: object; take: (name: string, value: unknown) => void } = {
    object: {},
    take: () => undefined,
  }

  constructor() {
    this.#session.connect()
    Object.assign(globalThis, { privateFieldsOf: this.#slot })
  }

  of(object: object): [name: string, field: { readonly value: unknown }][] {
    const found: [string, { value: unknown }][] = []
    this.#slot.object = object
    this.#slot.take = (name, value) => found.push([name, { value }])
    // Each answer comes before `post` returns.
    this.#session.post(
      'Runtime.evaluate',
      { expression: 'privateFieldsOf.object', objectGroup: 'it' },
      (_, { result }) => {
        this.#session.post(
          'Runtime.getProperties',
          { objectId: result.objectId as string, ownProperties: true },
          (_, answer) => {
            for (const { name, value } of (answer as WithPrivate).privateProperties ?? [])
              this.#take(name, value?.objectId)
          },
        )
      },
    )
    this.#session.post('Runtime.releaseObjectGroup', { objectGroup: 'it' })
    return found
  }

  close(): void {
    this.#session.disconnect()
    Reflect.deleteProperty(globalThis, 'privateFieldsOf')
  }

  #take(name: string, objectId: string | undefined): void {
    if (objectId === undefined) return
    const functionDeclaration = `function () { privateFieldsOf.take(${JSON.stringify(name)}, this) }`
    this.#session.post('Runtime.callFunctionOn', { objectId, functionDeclaration })
  }
}

/** Not in the types of Node yet. */
type WithPrivate = Runtime.GetPropertiesReturnType & {
  readonly privateProperties?: readonly Runtime.PropertyDescriptor[]
}
