/**
 * Guests: connections of keys that need not be a node's, which speak the join protocol and nothing else. Bounds how many there
 * are, for how long, how often and how much they ask; whatever breaks a bound ends the connection. What is answered is for
 * the owner of the network. Beside links, which it never touches.
 */

import type { Connection, Stream } from '@libp2p/interface'
import { type Clock, type GuestTalk, MAX_MESSAGE_BYTES } from '../../ports.ts'
import { FrameStream } from './frames.ts'
import { type Rate, TokenBucket } from './token-bucket.ts'

/** Beyond any of these the guest is refused, or its connection closed. */
export const GUEST_LIMITS = {
  /** At once, and of these from one address. */
  guests: 16,
  guestsOfAddress: 8,
  /** How long one may stay. */
  stayMs: 30_000,
  /** Questions of one stay, and bytes of each. */
  questions: 64,
  questionBytes: 4 * 1024,
  /** Visits of one address; a key costs nothing, so that keys are not counted. */
  visits: { perSecond: 2, burst: 40 } satisfies Rate,
  /** Addresses remembered; beyond it the one unseen for longest is forgotten. */
  addresses: 1024,
} as const

interface Stay {
  readonly connection: Connection
  readonly address: string
  readonly talk: GuestTalk
  readonly cancel: () => void
  stream: FrameStream | undefined
  questions: number
  isAnswering: boolean
}

export class Guests {
  readonly #clock: Clock
  readonly #stays = new Map<string, Stay>()
  readonly #visits = new Map<string, TokenBucket>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Whether nobody else can be let in, whoever it is. */
  get isFull(): boolean {
    return this.#stays.size >= GUEST_LIMITS.guests
  }

  /** Lets a guest in, or says false when it is one too many. */
  welcome(connection: Connection, address: string, talk: GuestTalk): boolean {
    const fromThere = [...this.#stays.values()].filter((stay) => stay.address === address).length
    if (this.isFull || fromThere >= GUEST_LIMITS.guestsOfAddress || !this.#mayVisit(address)) return false
    const cancel = this.#clock.after(GUEST_LIMITS.stayMs, () => this.#end(connection, 'stayed too long'))
    this.#stays.set(connection.id, {
      connection,
      address,
      talk,
      cancel,
      stream: undefined,
      questions: 0,
      isAnswering: false,
    })
    connection.addEventListener('close', () => this.#end(connection, 'closed'))
    return true
  }

  has(connection: Connection): boolean {
    return this.#stays.has(connection.id)
  }

  /** Takes the stream on which a guest asks. Anybody else's is reset. */
  accept(stream: Stream, connection: Connection): void {
    const stay = this.#stays.get(connection.id)
    if (stay === undefined || stay.stream !== undefined) return stream.abort(new Error('not a guest'))
    stay.stream = new FrameStream(stream, GUEST_LIMITS.questionBytes, {
      onFrame: (question) => void this.#answer(stay, question),
      onEnd: ({ reason }) => this.#end(connection, reason),
    })
  }

  /** Ends the connection of a guest that tried something else. */
  dismiss(connection: Connection): void {
    this.#end(connection, 'a guest may only ask')
  }

  clear(): void {
    for (const { connection } of this.#stays.values()) this.#end(connection, 'this node stops')
    this.#visits.clear()
  }

  /** One question at a time: the next one before its answer ends the stay. */
  async #answer(stay: Stay, question: Uint8Array): Promise<void> {
    const { connection, stream } = stay
    if (stay.isAnswering || ++stay.questions > GUEST_LIMITS.questions) return this.#end(connection, 'asks too much')
    stay.isAnswering = true
    const answer = await stay.talk(question).catch(() => undefined)
    stay.isAnswering = false
    const isSent = answer !== undefined && answer.length <= MAX_MESSAGE_BYTES && stream?.offer(answer) === true
    if (!isSent) this.#end(connection, 'no answer')
  }

  #mayVisit(address: string): boolean {
    const now = this.#clock.monotonic()
    const bucket = this.#visits.get(address) ?? new TokenBucket(GUEST_LIMITS.visits, now)
    // Kept in order of use, so that the first is the one to forget.
    this.#visits.delete(address)
    this.#visits.set(address, bucket)
    if (this.#visits.size > GUEST_LIMITS.addresses) this.#visits.delete(this.#visits.keys().next().value as string)
    return bucket.take(1, now)
  }

  #end(connection: Connection, reason: string): void {
    const stay = this.#stays.get(connection.id)
    if (stay === undefined) return
    this.#stays.delete(connection.id)
    stay.cancel()
    stay.stream?.abort(reason)
    connection.abort(new Error(reason))
  }
}

/** Who came from where, as one name: the host without its port. */
export function hostOf(address: string | undefined): string {
  return (address ?? '').replace(/:\d+$/, '')
}
