/**
 * What a rendering is made of: the nginx text of one resource, with what others must know of it. render.ts
 * makes units, a generation keeps them beside their text, the apply side chooses among them.
 */

export interface Listener {
  /** `*`, an IPv4 address, or an IPv6 address in brackets. */
  readonly address: string
  readonly port: number
  readonly tls: boolean
  /** Connections begin with a PROXY header. */
  readonly proxyProtocol?: true
}

export interface StreamListener extends Pick<Listener, 'address' | 'port'> {
  readonly protocol: 'tcp' | 'udp'
  readonly proxyProtocol: boolean
}

/**
 * A text that nginx reads beside its configuration: a certificate, a key, a list of users. Text of a unit names it by
 * `${host.directory}/objects/${name}`, so that another file makes another unit.
 */
export interface UnitFile {
  /** `<sha256 of text>.<extension>`; the extension is never `conf`. */
  readonly name: string
  readonly text: string
  /** Who opens it: the master alone, while it loads the configuration, or the workers, at requests. */
  readonly readers: 'master' | 'workers'
}

/** The nginx text of one resource. */
export interface Unit {
  /** Of the resource; that of a policy is followed by # and its version. See resourceOf. */
  readonly path: string
  readonly kind: 'site' | 'upstream' | 'policy' | 'stream' | 'settings'
  readonly text: string
  /** SHA-256 of text. */
  readonly digest: string
  /** Paths of the units without which nginx refuses this one. */
  readonly needs: readonly string[]
  readonly listeners: readonly Listener[]
  /** `*`: it is the default server of its listeners. */
  readonly hosts: readonly string[]
  readonly files?: readonly UnitFile[]
  /** Names of the modules that the text needs, as in Capabilities; those that are not compiled in are loaded. */
  readonly modules?: readonly string[]
  /** Of a stream: its ports, and the names by which it shares them; its `listeners` and `hosts` above are empty. */
  readonly stream?: { readonly listeners: readonly StreamListener[]; readonly hosts: readonly string[] }
}

/**
 * The path of a unit's resource. A site's text names the zones of one version of a policy, so that a site that keeps its
 * last good text needs that version, while others use a newer one: each version is a unit of its own.
 */
export function resourceOf(unitPath: string): string {
  return unitPath.replace(/#.*$/, '')
}
