/**
 * What a rendering is made of: the nginx text of one resource, with what others must know of it. Types alone; render.ts
 * makes units, a generation keeps them beside their text, the apply side chooses among them.
 */

export interface Listener {
  /** `*`, an IPv4 address, or an IPv6 address in brackets. */
  readonly address: string
  readonly port: number
  readonly tls: false
}

/** The nginx text of one resource. */
export interface Unit {
  /** Of the resource. */
  readonly path: string
  readonly kind: 'site' | 'upstream' | 'settings'
  readonly text: string
  /** SHA-256 of text. */
  readonly digest: string
  /** Paths of upstreams without whose units nginx refuses this one. */
  readonly needs: readonly string[]
  readonly listeners: readonly Listener[]
  /** `*`: it is the default server of its listeners. */
  readonly hosts: readonly string[]
}
