/**
 * What the clients of the zero-drop benchmark ask, and what must come back: fixed answers, echoes of bodies and of paths with
 * escapes. One in four is a POST, some of them long. Pure but for a counter.
 */

export interface Exchange {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly body: Buffer
  /** The body of the answer, whose status is 200. */
  readonly due: Buffer
}

/** The host name of the site. */
export const SITE_HOST = 'zero-drop.test'
/** What the site answers on `/`. */
export const FIXED_ANSWER = 'here\n'

const NONE = Buffer.alloc(0)
const FIXED = Buffer.from(FIXED_ANSWER)
const LONG_BYTES = 100_000
const FILLING = 'What goes in comes out again. '.repeat(LONG_BYTES / 30 + 1)

let count = 0

/** The next one; no two echoes are alike. @param longEvery one of so many is long; a multiple of 4, or 0 for none */
export function nextExchange(longEvery: number): Exchange {
  count += 1
  const tag = `${process.pid}-${count}`
  if (count % 4 === 0) {
    const length = longEvery > 0 && count % longEvery === 0 ? LONG_BYTES : (count * 7) % 2000
    const body = Buffer.from(`${tag} ${FILLING.slice(0, length)}`)
    return { method: 'POST', path: '/echo/body', body, due: body }
  }
  if (count % 4 === 1) {
    const path = `/echo/a%2Fb?n=${tag}&c=%20`
    return { method: 'GET', path, body: NONE, due: Buffer.from(path) }
  }
  return { method: 'GET', path: '/', body: NONE, due: FIXED }
}
