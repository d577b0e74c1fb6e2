/**
 * A client that keeps switched connections, as websockets are, through nginx: opens one, sends a word every now and then and
 * expects it back, closes it after its time. Counts them apart from requests. zero-drop-load.ts and websockets.ts run many.
 */

import { connect, type Socket } from 'node:net'
import { SITE_HOST } from './zero-drop-exchanges.ts'

export interface WebsocketOptions {
  readonly port: number
  /** Time from one word to the next. */
  readonly pauseMs: number
  /** How long it stays open; undefined: until stop(). */
  readonly lifeMs?: number
  /** Open another one when it ends. */
  readonly again?: boolean
}

export interface WebsocketCounts {
  readonly opened: number
  readonly words: number
  /** Refused at opening, or ended by the other side. */
  readonly lost: number
  /** Words that came back as something else. */
  readonly wrong: number
}

export class WebsocketClient {
  readonly #options: WebsocketOptions
  #counts = { opened: 0, words: 0, lost: 0, wrong: 0 }
  #socket: Socket | undefined
  #timers: NodeJS.Timeout[] = []
  #isStopping = false
  #isOpen = false

  constructor(options: WebsocketOptions) {
    this.#options = options
  }

  /** Whether it is open now. */
  get isOpen(): boolean {
    return this.#isOpen
  }

  start(): void {
    const { port, pauseMs, lifeMs } = this.#options
    const socket = connect({ host: '127.0.0.1', port, noDelay: true })
    this.#socket = socket
    let received = ''
    let due: string | undefined
    const speak = (): void => {
      due = `word ${this.#counts.words}\n`
      received = ''
      socket.write(due)
    }
    socket.setEncoding('latin1')
    socket.on('data', (text: string) => {
      received += text
      if (due === undefined) {
        if (!received.includes('\r\n\r\n')) return
        if (!received.startsWith('HTTP/1.1 101 ')) return this.#lost()
        this.#counts.opened += 1
        this.#isOpen = true
        speak()
      } else if (received.length >= due.length) {
        if (received === due) this.#counts.words += 1
        else this.#counts.wrong += 1
        this.#timers[0] = setTimeout(speak, pauseMs)
      }
    })
    socket.on('end', () => this.#lost())
    socket.on('error', () => this.#lost())
    if (lifeMs !== undefined) this.#timers[1] = setTimeout(() => this.#again(), lifeMs)
    // The frames are none: nginx passes on what it is sent, and the backend returns it.
    const headers = `Host: ${SITE_HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n`
    socket.write(`GET /socket/ HTTP/1.1\r\n${headers}\r\n`)
  }

  /** The counts since the last call. */
  take(): WebsocketCounts {
    const counts = this.#counts
    this.#counts = { opened: 0, words: 0, lost: 0, wrong: 0 }
    return counts
  }

  stop(): void {
    this.#isStopping = true
    this.#close()
  }

  #lost(): void {
    this.#counts.lost += 1
    this.#again()
  }

  #again(): void {
    this.#close()
    if (!this.#isStopping && this.#options.again === true) this.start()
  }

  #close(): void {
    for (const timer of this.#timers) clearTimeout(timer)
    this.#timers = []
    this.#isOpen = false
    this.#socket?.removeAllListeners().on('error', () => undefined)
    this.#socket?.destroy()
    this.#socket = undefined
  }
}
