/**
 * The clients of the zero-drop benchmark, in a process of their own: started with a LoadPlan as its argument, it answers `take`
 * with the counts since the last time, and `stop` by ending. Measures nothing of the product itself.
 */

import { Http1Client } from './zero-drop-http1.ts'
import { Http2Client } from './zero-drop-http2.ts'
import { Tally, type Counts } from './zero-drop-tally.ts'
import { WebsocketClient, type WebsocketCounts } from './zero-drop-websocket.ts'

export interface LoadPlan {
  readonly protocol: 'http1' | 'http2'
  readonly port: number
  /** Whom the site's certificate is issued by; HTTP/2 goes over TLS. PEM. */
  readonly ca: string
  readonly groups: readonly Group[]
  /** One request of so many has a long body; 0: none. */
  readonly longEvery: number
  readonly websockets: {
    readonly count: number
    readonly port: number
    readonly pauseMs: number
    readonly lifeMs: number
  }
}

export interface Group {
  readonly name: string
  readonly count: number
  readonly pauseMs: number
}

export interface LoadReport {
  readonly groups: Readonly<Record<string, Counts>>
  readonly websockets: WebsocketCounts
  /** What failed, for people; a few. */
  readonly examples: readonly string[]
}

function main(plan: LoadPlan): void {
  const tallies = new Map(plan.groups.map(({ name }) => [name, new Tally()]))
  const clients = plan.groups.flatMap(({ name, count, pauseMs }) =>
    Array.from({ length: count }, (_, index) => {
      const tally = tallies.get(name) as Tally
      const options = { port: plan.port, pauseMs, longEvery: plan.longEvery, tally }
      if (plan.protocol === 'http2') return new Http2Client({ ...options, ca: plan.ca })
      return new Http1Client({ ...options, readsFirstOnly: index % 2 === 1 })
    }),
  )
  const sockets = Array.from(
    { length: plan.websockets.count },
    () => new WebsocketClient({ ...plan.websockets, again: true }),
  )
  for (const client of [...clients, ...sockets]) client.start()
  const take = (): LoadReport => ({
    groups: Object.fromEntries([...tallies].map(([name, tally]) => [name, tally.take()])),
    websockets: sockets.map((socket) => socket.take()).reduce(added, { opened: 0, words: 0, lost: 0, wrong: 0 }),
    examples: [...tallies].flatMap(([name, { examples }]) => examples.splice(0).map((one) => `${name}: ${one}`)),
  })
  process.on('message', (message) => {
    if (message === 'take') process.send?.(take())
    if (message === 'stop') void stop()
  })
  const stop = async (): Promise<void> => {
    for (const socket of sockets) socket.stop()
    await Promise.all(clients.map((client) => client.stop()))
    process.disconnect()
  }
  // Whoever started it is gone.
  process.on('disconnect', () => process.exit(0))
}

function added(a: WebsocketCounts, b: WebsocketCounts): WebsocketCounts {
  return { opened: a.opened + b.opened, words: a.words + b.words, lost: a.lost + b.lost, wrong: a.wrong + b.wrong }
}

if (process.argv[1] === import.meta.filename) main(JSON.parse(process.argv[2] ?? '{}') as LoadPlan)
