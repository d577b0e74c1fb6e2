/**
 * The composition root: builds every part of a node, joins them, starts and stops them in order. Reads top to bottom; decides
 * nothing that a part could decide. Called by mesh-node.ts with real adapters and by simulations with fakes.
 */

import { resolve } from 'node:path'
import { nodeCertificate } from './adapters/certificate.ts'
import { systemClock } from './adapters/clock.ts'
import { sealKeyFromSeed } from './adapters/identity.ts'
import { Libp2pNetwork } from './adapters/network.ts'
import { LevelStore } from './adapters/store.ts'
import { ROUTE_PATHS } from './api/routes.ts'
import { ApiServer, type ApiServerOptions } from './api/server.ts'
import type { Config } from './config/config.ts'
import { envelopeId, type Envelope, type KeyPair, type WireEnvelope } from './core/envelope.ts'
import { encryptionKey } from './core/secrets.ts'
import { type SliceNode } from './core/slice.ts'
import { slice, targetOf } from './core/slicing.ts'
import { EditKey } from './edit-key.ts'
import { MeshError } from './errors.ts'
import { setGauges } from './gauges.ts'
import { JoinRequests } from './joining/join.ts'
import { Standing } from './joining/standing.ts'
import type { Log } from './log.ts'
import { Membership } from './membership.ts'
import { createMetrics, type Metrics } from './metrics.ts'
import type { Clock, Network, Random, Startable, Store } from './ports.ts'
import { buildNginx, type NginxParts } from './nginx-parts.ts'
import type { Receipt } from './receipt.ts'
import { Replica } from './replica.ts'
import { ServedCertificates } from './served-certificates.ts'
import { Settling } from './settling.ts'
import { Alarms } from './status/alarms.ts'
import { factsOf, healthOf, isLive, isShort, type Health } from './status/health.ts'
import { parseStatusPayload, type StatusRecord } from './status/status-record.ts'
import { StatusTable, type OwnStatus } from './status/status.ts'
import { Sync } from './sync/sync.ts'
import { VERSION } from './version.ts'

/** The outside world of one node. */
export interface Adapters {
  readonly store: Store
  readonly network: Network
  readonly clock: Clock
  readonly random: Random
  /** Whether the API listens; a simulation has none. */
  readonly serveApi: boolean
}

/** The adapters of a real node. Nothing is opened before start. */
export function realAdapters(config: Config, key: KeyPair, log: Log, metrics: Metrics): Adapters {
  const clock = systemClock
  const random = Math.random
  const store = new LevelStore({ directory: resolve(config.dataDir, 'store'), sealKey: sealKeyFromSeed(key.seed) })
  const network = new Libp2pNetwork({
    keySeed: key.seed,
    networkId: config.networkId,
    bindAddress: config.bindAddress,
    bindPort: config.bindPort,
    ...(config.mesh.advertise.length === 0 ? {} : { advertise: config.mesh.advertise }),
    gossip: config.gossip ? 'push' : 'off',
    targetPeers: config.targetPeers,
    clock,
    random,
    log: log.child('network'),
    count: (event) => metrics.networkEvents.inc({ event }),
  })
  return { store, network, clock, random, serveApi: true }
}

export interface NodeOptions {
  readonly config: Config
  readonly key: KeyPair
  /** With which the API signs for callers; undefined: it signs nothing. */
  readonly editKey?: KeyPair | undefined
  readonly log: Log
  readonly metrics?: Metrics
  readonly adapters?: Adapters
  /** Envelopes to take in at start: those that `meshctl init` wrote. */
  readonly founding?: readonly WireEnvelope[]
}

const TICK_MS = 5_000
/** A node that has just started is not to be called cut off. */
const FIRST_CONNECTION_MS = 30_000

/** One node of the mesh. It has one life: after `stop`, or a start that failed, make another. */
export class MeshNode implements Startable {
  readonly replica: Replica
  readonly status: StatusTable
  readonly sync: Sync
  readonly #config: Config
  readonly #key: KeyPair
  readonly #log: Log
  readonly #metrics: Metrics
  readonly #adapters: Adapters
  readonly #founding: readonly WireEnvelope[]
  readonly #membership: Membership
  readonly #alarms: Alarms
  readonly #settling: Settling
  readonly #joins: JoinRequests
  readonly #standing: Standing
  readonly #editKey: EditKey | undefined
  readonly #nginx: NginxParts | undefined
  readonly #api: ApiServer | undefined
  #receipt: Receipt | undefined
  readonly #certificates: ServedCertificates
  /** Directories that keep nginx's workers from their files, as last looked. */
  #closedToWorkers: readonly string[] = []
  #hasConnected = false
  #startedMs = 0
  #hasLived = false
  #started: Startable[] = []
  #cancelTick: () => void = () => undefined

  constructor(options: NodeOptions) {
    const { config, key, log } = options
    const metrics = options.metrics ?? createMetrics({ routes: ROUTE_PATHS })
    const adapters = options.adapters ?? realAdapters(config, key, log, metrics)
    const { store, network, clock, random } = adapters
    this.#config = config
    this.#key = key
    this.#log = log
    this.#metrics = metrics
    this.#adapters = adapters
    this.#founding = options.founding ?? []

    this.#certificates = new ServedCertificates(log.child('nginx'))
    const meshId = config.mesh.id === '' ? undefined : config.mesh.id
    this.replica = new Replica({ store, clock, log: log.child('replica'), metrics, meshId })
    this.#membership = new Membership({
      state: this.replica.state,
      own: key.publicKey,
      enc: encryptionKey(key.seed).publicKey,
      listed: config.nodes.map((node) => ({ key: node.publicKey, addresses: node.endpoints })),
      zones: config.mesh.zones,
    })
    this.#settling = new Settling({
      replica: this.replica,
      membership: this.#membership,
      store,
      log,
      onSettled: () => {
        this.#nginx?.reconciler.wake()
        this.#changed()
      },
    })
    this.#joins = new JoinRequests({
      state: this.replica.state,
      membership: this.#membership,
      own: key.publicKey,
      networkId: config.networkId,
      clock,
      log: log.child('join'),
    })
    this.#standing = new Standing({
      network,
      replica: this.replica,
      clock,
      log: log.child('join'),
      peers: () => this.#membership.askTargets(this.status.known()),
      isRevoked: () => this.#membership.isRevoked,
    })
    this.status = new StatusTable({
      key,
      store,
      clock,
      random,
      log: log.child('status'),
      describe: () => this.#describe(),
      isNode: (peer) => this.#membership.allows(peer),
      granted: () => this.#membership.grantedNodes(),
      connected: () => network.connected,
      publish: (payload) => network.publish('status', payload),
    })
    this.sync = new Sync({
      replica: this.replica,
      network,
      clock,
      random,
      log: log.child('sync'),
      metrics,
      intervalMs: config.syncIntervalSeconds * 1000,
      gossip: config.gossip,
      trustsGenesisOf: (peer) => this.#membership.isListed(peer),
      status: this.status,
      isSettled: () => this.isSettled,
      onMesh: (id) => network.joinMesh(id),
      onSettled: () => this.#settling.exchanged(),
    })
    this.#alarms = new Alarms({
      own: key.publicKey,
      clock,
      network,
      replica: this.replica,
      status: this.status,
      sync: this.sync,
      isSettled: () => this.isSettled,
    })
    this.#editKey = options.editKey === undefined ? undefined : this.#buildEditKey(options.editKey)
    this.#nginx = config.nginx.mode === 'off' ? undefined : this.#buildNginx()
    this.#api = adapters.serveApi ? this.#buildApi() : undefined
    metrics.onScrape(() => {
      const { replica, status, receipt } = this
      const { status: health } = this.health()
      const alarms = this.#alarms
      const { firstExpiry } = this.#certificates.facts(clock.now())
      const converged = this.isConverged()
      setGauges(metrics, { replica, status, network, receipt, health, converged, firstExpiry, alarms })
    })
  }

  /**
   * Starts every part; when one fails, those before it are stopped again.
   * @throws MeshError, or Error in a second life.
   */
  async start(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    if (this.#started.length > 0) return
    if (this.#hasLived) throw new Error('a MeshNode has one life: make another one')
    this.#hasLived = true
    const { network, clock } = this.#adapters
    try {
      await this.#startPart(this.replica, options)
      await this.#found()
      await this.#settling.start()
      this.#startedMs = clock.monotonic()
      // The port is taken before the status says where this node can be dialled.
      await this.#startPart({ start: () => this.#startNetwork(options), stop: () => network.stop() })
      await this.#startPart(this.sync)
      await this.#startPart(this.status)
      if (this.#api !== undefined) await this.#startPart(this.#api)
      if (this.#nginx !== undefined) {
        await this.#startPart(this.#nginx.observer)
        await this.#startPart(this.#nginx.reconciler)
      }
      await this.#startPart(this.#subscriptions())
    } catch (error) {
      await this.stop()
      throw error
    }
    this.#dialPeers()
    this.#settling.settleWhenAlone()
    this.#scheduleTick()
    this.#log.info('this node is up', {
      node: this.#key.publicKey,
      mesh: this.replica.meshId ?? 'none yet',
      zones: this.#membership.zones().join(' '),
      edits: this.replica.state.history.size,
    })
  }

  /** Stops every part in reverse. nginx goes on serving unless the configuration says otherwise. */
  async stop(): Promise<void> {
    this.#cancelTick()
    for (const part of this.#started.splice(0).toReversed()) {
      await part.stop().catch((error: unknown) => this.#log.error('a part did not stop in order', { error }))
    }
  }

  /** Whether an empty state means empty, and not that nothing has arrived yet. */
  get isSettled(): boolean {
    return this.#settling.isSettled
  }

  /** Whether no edit was ever made in this mesh, as far as this node knows. */
  get isUntouched(): boolean {
    return this.replica.state.history.resourcePaths().next().done === true
  }

  get receipt(): Receipt | undefined {
    return this.#receipt
  }

  get apiPort(): number | undefined {
    return this.#api?.port
  }

  /** Whether nginx is proven to run what the mesh desires. A node without nginx is, when it has settled. */
  isConverged(): boolean {
    if (this.#nginx === undefined) return this.isSettled
    const receipt = this.#receipt
    if (receipt === undefined || receipt.applied === null || receipt.error !== null) return false
    const { state } = this.replica
    if (receipt.applied !== receipt.desired || isShort(receipt) || !state.isFresh) return false
    if (!isLive(receipt, receipt.target)) return false
    return receipt.target === targetOf(state.resources(), this.#place().places)
  }

  health(): Health {
    const { state, writeError, corruptRecords, authorsOverQuota } = this.replica
    const { network, clock } = this.#adapters
    const facts = factsOf({
      writeError: writeError?.message,
      corruptRecords,
      authorsOverQuota,
      hasMesh: state.meshId !== undefined,
      isSettled: this.isSettled,
      hasLostStore: this.#settling.hasLostStore,
      complaints: [
        ...this.#membership.complaints(),
        ...Object.values(this.#alarms.complaints()).flat(),
        ...(this.#editKey?.complaints() ?? []),
      ],
      notes: this.status.notes(),
      others: this.#membership.grantedNodes().size - 1,
      connections: network.connected.length,
      isStarting: !this.#hasConnected && clock.monotonic() - this.#startedMs < FIRST_CONNECTION_MS,
      receipt: this.#nginx === undefined ? null : this.#receipt,
      closedToWorkers: this.#closedToWorkers,
      certificates: this.#certificates.facts(clock.now()),
    })
    return healthOf(facts)
  }

  // -------------------------------------------------------------------------------------------- building

  #buildNginx(): NginxParts {
    const { clock, random } = this.#adapters
    return buildNginx({
      settings: this.#config.nginx,
      api: { address: this.#config.httpBindAddress, port: this.#config.httpBindPort },
      key: this.#key,
      clock,
      random,
      log: this.#log,
      metrics: this.#metrics,
      certificates: this.#certificates,
      desired: async () => {
        const state = await this.replica.fresh()
        return slice(state.resources(), this.#place(), state.grantOf)
      },
      holdReason: (served) => this.#settling.holdReason(served),
      onReceipt: (receipt) => this.#onReceipt(receipt),
    })
  }

  #buildEditKey(key: KeyPair): EditKey {
    const { replica } = this
    const { clock } = this.#adapters
    return new EditKey({ key, replica, clock, log: this.#log.child('api'), isSettled: () => this.isSettled })
  }

  #buildApi(): ApiServer {
    return new ApiServer({
      replica: this.replica,
      status: this.status,
      membership: this.#membership,
      joins: this.#joins,
      receipt: () => this.#receipt,
      health: () => this.health(),
      converged: () => this.isConverged(),
      mayTakeEdits: () => !this.#membership.isRevoked,
      editKey: this.#editKey,
      metrics: this.#metrics,
      clock: this.#adapters.clock,
      log: this.#log.child('api'),
      bindAddress: this.#config.httpBindAddress,
      openMetrics: this.#config.httpOpenMetrics,
      tls: this.#tls(),
      port: this.#config.httpBindPort,
      socketPath: resolve(this.#config.dataDir, 'api.sock'),
      info: () => ({
        key: this.#key.publicKey,
        version: VERSION,
        networkId: this.#config.networkId,
        name: this.#membership.nameOf(this.#key.publicKey),
        zones: this.#membership.zones(),
      }),
    })
  }

  #tls(): ApiServerOptions['tls'] {
    const { httpTls, httpBindAddress, mesh } = this.#config
    if (httpTls.identity) return nodeCertificate(this.#key, [httpBindAddress, ...mesh.advertise])
    return httpTls.cert === '' ? undefined : httpTls
  }

  // -------------------------------------------------------------------------------------------- joining the parts

  async #startPart(part: Startable, options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    options.signal?.throwIfAborted()
    await part.start(options)
    this.#started.push(part)
  }

  async #found(): Promise<void> {
    const [genesis] = this.#founding
    if (genesis === undefined) return
    const [stored, founded] = [this.replica.state.meshId, envelopeId(genesis.bytes)]
    const known = stored ?? this.replica.meshId
    if (known !== undefined && known !== founded) throw foreignFounding(known, stored !== undefined, founded)
    if (stored !== undefined) return
    await this.replica.adopt(genesis)
    const outcomes = await this.replica.submit(this.#founding, 'disk')
    const refused = outcomes.find(({ outcome }) => outcome === 'refused')
    if (refused !== undefined) this.#log.warn('an envelope of the genesis file is refused', { ...refused })
  }

  async #startNetwork(options: { readonly signal?: AbortSignal }): Promise<void> {
    const { network } = this.#adapters
    await network.start(
      {
        allows: (peer) => this.#membership.allows(peer),
        onGossip: async (channel, from, payload) =>
          channel === 'edits'
            ? await this.sync.onGossip(from, payload)
            : this.status.receive(parseStatusPayload(payload)),
        onRequest: (from, request) => this.sync.onRequest(from, request),
        onGuest: (guest) => this.#joins.receive(guest),
        onConnected: (peer) => {
          this.#hasConnected = true
          this.status.found(peer)
          this.sync.syncSoon(peer, 0)
          this.#changed()
        },
        onDisconnected: (peer) => {
          this.status.lost(peer)
          this.sync.forget(peer)
          this.#changed()
        },
      },
      options,
    )
    if (this.replica.meshId !== undefined) network.joinMesh(this.replica.meshId)
  }

  /** What the parts tell each other of what they hear. */
  #subscriptions(): Startable {
    let unsubscribe: (() => void)[] = []
    return {
      start: async () => {
        unsubscribe = [
          this.replica.onStored((envelopes) => this.#onStored(envelopes)),
          this.status.onRecord((record, previous) => this.#onRecord(record, previous)),
        ]
      },
      stop: async () => unsubscribe.forEach((end) => end()),
    }
  }

  #onStored(envelopes: readonly Envelope[]): void {
    if (envelopes.some(({ body }) => body.type !== 'edit')) this.#onPolicy()
    this.#nginx?.reconciler.wake()
    // Status tells of the new digest when it is next due: one edit must not make every node of the mesh publish at once.
    this.#api?.changed()
  }

  /** Who may connect has changed. A peer that has lost its grant is told why before it is cut off. */
  #onPolicy(): void {
    this.#settling.settleWhenAlone()
    this.status.forgetStrangers()
    this.#dialPeers()
    const { network } = this.#adapters
    for (const peer of network.connected.filter((key) => !this.#membership.allows(key))) {
      void this.sync
        .tell(peer, this.#membership.revocationsOf(peer))
        .catch((error: unknown) => this.#log.info('a revoked peer could not be told', { peer, error }))
        .then(() => network.disconnect(peer))
    }
  }

  #onRecord(record: StatusRecord, previous: StatusRecord | undefined): void {
    this.sync.compare(record.node, record.digest)
    this.#alarms.hear(record)
    if (record.addresses.join() !== previous?.addresses.join()) this.#dialPeers()
  }

  #onReceipt(receipt: Receipt): void {
    this.#receipt = receipt
    this.#changed()
    void this.#lookAtDirectories()
  }

  /** Also at every tick, since somebody may open or close one. */
  async #lookAtDirectories(): Promise<void> {
    const closed = await this.#nginx?.process.closedToWorkers().catch(() => undefined)
    if (closed === undefined || closed.join() === this.#closedToWorkers.join()) return
    this.#closedToWorkers = closed
    this.#changed()
  }

  /** Something that status, API or gauges show has changed. */
  #changed(): void {
    this.status.changed()
    this.#api?.changed()
  }

  #dialPeers(): void {
    this.#adapters.network.setKnownPeers(this.#membership.dialTargets(this.status.known()))
  }

  /** Which resources are for this node. */
  #place(): SliceNode {
    const { labels } = this.#config.mesh
    return { places: this.#membership.places(), labels }
  }

  #describe(): OwnStatus | undefined {
    const mesh = this.replica.state.meshId
    if (mesh === undefined) return undefined
    return {
      mesh,
      addresses: this.#adapters.network.addresses,
      zones: this.#membership.zones(),
      labels: this.#config.mesh.labels,
      version: VERSION,
      digest: this.sync.digest(),
      receipt: this.#receipt ?? null,
      health: this.health(),
    }
  }

  #scheduleTick(): void {
    this.#cancelTick = this.#adapters.clock.after(TICK_MS, () => {
      this.#dialPeers()
      this.#standing.tick()
      void this.#lookAtDirectories()
      this.#scheduleTick()
    })
  }
}

function foreignFounding(known: string, isStored: boolean, founded: string): MeshError {
  const who = isStored ? 'the store belongs to' : 'mesh.id names'
  return new MeshError('config_invalid', `${who} mesh ${known}, and mesh.genesis_file founds ${founded}`, {
    field: 'mesh.genesis_file',
    hint: `Was the mesh founded anew? Then move data_dir/store aside and set mesh.id: ${founded}; nginx serves on. Else name the genesis of its own mesh, or none.`,
  })
}
