/**
 * The door through which live state reaches nginx: pushes texts, and asks a worker by which stamp it goes. One request
 * each, on the socket that only the daemon can open. Decides nothing; live-lane.ts does.
 */

import { MeshError } from '../../errors.ts'
import { get, post } from './http.ts'

/** What one worker goes by. */
export interface LiveAnswer {
  /** 0: it was never told anything. */
  readonly stamp: number
  readonly pid: number
}

export interface LiveEndpoint {
  /** What one worker answers; undefined when none does, or when nginx runs a generation without the lane. */
  ask(): Promise<LiveAnswer | undefined>
  /**
   * Whether it was taken; false when it changes a state that nginx does not have.
   * @throws MeshError `unavailable` when nobody answers, `too_large` when it does not fit into nginx's memory,
   * `nginx_refused` otherwise
   */
  push(text: string): Promise<boolean>
}

/** A busy worker gets to it within this. */
const ASK_TIMEOUT_MS = 2_000
/** The largest push takes about a tenth of a second. */
const PUSH_TIMEOUT_MS = 10_000

/** The endpoint that a generation with the lane serves on its verify socket. */
export function liveEndpoint(socketPath: string): LiveEndpoint {
  const to = { to: { socketPath }, path: '/live', host: 'nxmesh' }
  return {
    async ask() {
      const answer = await get({ ...to, timeoutMs: ASK_TIMEOUT_MS }).catch(() => undefined)
      const match = /^(\d{1,15}) (\d+)\s*$/.exec(answer?.status === 200 ? answer.body : '')
      return match === null ? undefined : { stamp: Number(match[1]), pid: Number(match[2]) }
    },
    async push(text) {
      const answer = await post({ ...to, timeoutMs: PUSH_TIMEOUT_MS }, text).catch((error: unknown) => {
        throw new MeshError('unavailable', `nginx took no live state: ${(error as Error).message}`, {}, error)
      })
      if (answer.status === 200) return true
      if (answer.status === 409) return false
      const said = answer.body.trim().slice(0, 200)
      const tooLarge = answer.status === 507 || answer.status === 413
      const hint = tooLarge
        ? 'spread the sites over several zones, or set nginx.live_lane to false'
        : 'it is pushed again'
      throw new MeshError(
        tooLarge ? 'too_large' : 'nginx_refused',
        `nginx refused the live state: ${answer.status} ${said}`,
        { hint },
      )
    },
  }
}
