/**
 * Whether sites show the certificates that workers were told without a reload: a handshake by SNI with each, over its real
 * listener, and no request, so that no upstream is waited for. Called for src/live-lane.ts after a push.
 */

import { connect } from 'node:tls'
import type { Unit } from '../rendering/unit.ts'
import { introduced } from './http.ts'
import { probeTargets, type LiveFingerprints, type ProbeTarget } from './probe.ts'

/** Sites asked after one push; of more the first by path are. */
const HANDSHAKES_MAX = 64
const HANDSHAKE_TIMEOUT_MS = 2_000

/**
 * What is wrong with the first site that is not well; undefined when none is.
 * @param keys entries that were changed; other certificates are not looked at
 */
export async function certificateFault(
  units: readonly Unit[],
  keys: readonly string[],
  live: LiveFingerprints,
): Promise<string | undefined> {
  const asking = units.filter(({ text }) => keys.some((key) => text.includes(key)))
  const targets = probeTargets(asking).slice(0, HANDSHAKES_MAX)
  const faults = await Promise.all(targets.map((target) => faultOf(target, live)))
  return faults.find((fault) => fault !== undefined)
}

async function faultOf(target: ProbeTarget, live: LiveFingerprints): Promise<string | undefined> {
  const { site, host, port, tls = [] } = target
  const expected = () => [...tls, ...(target.live ?? []).flatMap(live)]
  const before = expected()
  try {
    const shown = await shownFingerprint(target)
    // Another may be pushed meanwhile.
    if ([...before, ...expected()].includes(shown ?? '')) return undefined
    return `${site} (${host}:${port}): it shows another certificate`
  } catch (error) {
    return `${site} (${host}:${port}): ${(error as Error).message}`
  }
}

async function shownFingerprint(target: ProbeTarget): Promise<string | undefined> {
  const { address, port, host, proxyProtocol } = target
  const over =
    proxyProtocol === true ? { socket: await introduced(target, HANDSHAKE_TIMEOUT_MS) } : { host: address, port }
  return new Promise((resolve, reject) => {
    // Nobody is trusted with anything here: who asks compares the certificate.
    const socket = connect({ ...over, servername: host, rejectUnauthorized: false })
    const timer = setTimeout(
      () => socket.destroy(new Error(`no handshake within ${HANDSHAKE_TIMEOUT_MS} ms`)),
      HANDSHAKE_TIMEOUT_MS,
    )
    socket.on('secureConnect', () => {
      resolve(socket.getPeerX509Certificate()?.fingerprint256)
      socket.destroy()
    })
    socket.on('error', reject)
    socket.on('close', () => {
      clearTimeout(timer)
      reject(new Error('nginx closed the connection'))
    })
  })
}
