/**
 * What the benchmarks write: a mesh with several authors and their edits of valid sites, about 1 KB each. An author edits
 * resources of its own, so nothing conflicts. Several authors, because one may make 300 edits at once and 60 a minute.
 */

import type { EditBody, Envelope, KeyPair, Op } from '../../src/core/envelope.ts'
import { keyOf, TestMesh } from '../support/authors.ts'

/** The zone of everything here. */
export const ZONE = 'bench'
/** Fills an edit that changes one field up to 1 KB, and one that creates a site likewise. */
const CHANGE_TEXT = 'a change of a site, '.repeat(50).slice(0, 490)
const CREATION_TEXT = CHANGE_TEXT.slice(0, 330)

interface Author {
  readonly key: KeyPair
  readonly grant: string
}

export interface WorkloadOptions {
  /** Public keys of the nodes that the mesh grants. */
  readonly nodes: readonly string[]
  /** Default 3. */
  readonly authors?: number
}

export class Workload {
  /** Genesis and grants: what every node holds from the start. */
  readonly founding: readonly Envelope[]
  readonly meshId: string
  readonly #mesh: TestMesh
  readonly #authors: readonly Author[]
  /** The last edit of each resource. */
  readonly #heads = new Map<string, string>()
  #count = 0

  constructor({ nodes, authors = 3 }: WorkloadOptions) {
    this.#mesh = new TestMesh(nodes.map((key, index) => ({ key, name: `node-${index}`, zones: [ZONE] })))
    this.meshId = this.#mesh.id
    const keys = Array.from({ length: authors }, (_, index) => keyOf(`author ${index}`))
    const grants = keys.map((key) => this.#mesh.grant(key.publicKey, 'editor'))
    this.#authors = keys.map((key, index) => ({ key, grant: (grants[index] as Envelope).id }))
    this.founding = [...this.#mesh.founding, ...grants]
  }

  /** Creates site `index` with one route, or changes one field of it when it is there. About 1 KB either way. */
  edit(index: number): Envelope<EditBody> {
    return this.#edit('site', index, [
      ['set', '$', true],
      ['set', `hosts/site-${index}.test`, true],
      ['set', 'routes/root/action', 'return'],
      ['set', 'routes/root/path', '/'],
      ['set', 'routes/root/return/body', this.#text(CREATION_TEXT)],
      ['set', 'routes/root/return/status', 200],
    ])
  }

  /** Creates site `index` with three routes and an upstream of its own: what nginx has to load, in two edits. */
  application(index: number): Envelope<EditBody>[] {
    const upstream = this.#edit('upstream', index, [
      ['set', '$', true],
      ['set', 'endpoints/127.0.0.1:9/weight', 2],
      ['set', 'endpoints/127.0.0.2:9/weight', 1],
    ])
    const site = this.#edit('site', index, [
      ['set', '$', true],
      ['set', `hosts/site-${index}.test`, true],
      ['set', 'routes/app/action', 'proxy'],
      ['set', 'routes/app/path', '/app/'],
      ['set', 'routes/app/proxy/upstream', `upstream-${index}`],
      ['set', 'routes/old/action', 'redirect'],
      ['set', 'routes/old/path', '/old/'],
      ['set', 'routes/old/redirect/to', 'https://example.com/new'],
      ['set', 'routes/root/action', 'return'],
      ['set', 'routes/root/path', '/'],
      ['set', 'routes/root/return/body', this.#text(CREATION_TEXT)],
      ['set', 'routes/root/return/status', 200],
    ])
    return [upstream, site]
  }

  #edit(kind: string, index: number, creation: readonly Op[]): Envelope<EditBody> {
    const path = `default/${ZONE}/${kind}/${kind}-${index}`
    const head = this.#heads.get(path)
    const author = this.#authors[index % this.#authors.length] as Author
    const ops = head === undefined ? creation : [['set', 'routes/root/return/body', this.#text(CHANGE_TEXT)] as const]
    const deps = head === undefined ? [] : [head]
    const envelope = this.#mesh.edit(path, ops, { by: author.key, grant: author.grant, deps })
    this.#heads.set(path, envelope.id)
    return envelope
  }

  /** Never the same twice. */
  #text(filling: string): string {
    this.#count += 1
    return `${this.#count} ${filling}`
  }
}
