/** The demo's own check: it must fail when a fact does not hold, or the demo would prove nothing. */

import { describe, expect, it } from 'vitest'
import { CheckFailed, Checks } from '../../scripts/checks.ts'

function checks(options: { timeoutMs?: number; signal?: AbortSignal } = {}) {
  const written: string[] = []
  return { written, checks: new Checks({ write: (text) => written.push(text), timeoutMs: 0, ...options }) }
}

describe('a check', () => {
  it('prints a fact that holds and counts it', async () => {
    const { checks: held, written } = checks()
    await held.equals('all serve it', () => ({ a: 'hi', b: 'hi' }), { a: 'hi', b: 'hi' })
    expect(written).toEqual(['  ✓ all serve it\n'])
    expect(held.passed).toBe(1)
  })

  it('fails with the fact, what was expected and what was found', async () => {
    const { checks: failing, written } = checks()
    const failure = await failing
      .equals('all serve it', () => ({ a: 'hi', b: 'ho' }), { a: 'hi', b: 'hi' })
      .catch((e: unknown) => e)
    expect(failure).toBeInstanceOf(CheckFailed)
    expect((failure as CheckFailed).fact).toBe('all serve it')
    expect((failure as CheckFailed).message).toContain('{"a":"hi","b":"ho"}')
    expect(written).toEqual(['  ✗ all serve it\n'])
    expect(failing.passed).toBe(0)
  })

  it('fails when a member is missing or there is one too many', async () => {
    await expect(checks().checks.equals('x', (): object => ({ a: 1 }), { a: 1, b: 2 })).rejects.toThrow(CheckFailed)
    await expect(checks().checks.equals('x', (): object => ({ a: 1, b: 2 }), { a: 1 })).rejects.toThrow(CheckFailed)
  })

  it('fails with the error of a look that throws', async () => {
    const look = () => Promise.reject(new Error('connect ECONNREFUSED'))
    await expect(checks().checks.equals('x', look, 'hi')).rejects.toThrow('connect ECONNREFUSED')
  })

  it('waits until the fact holds', async () => {
    let looks = 0
    const { checks: patient } = checks({ timeoutMs: 10_000 })
    await patient.equals('third time', () => (looks += 1) >= 3, true)
    expect(looks).toBe(3)
  })

  it('ends when it is aborted, with the reason and without a verdict', async () => {
    const controller = new AbortController()
    const { checks: aborted, written } = checks({ timeoutMs: 10_000, signal: controller.signal })
    const look = () => {
      controller.abort(new Error('Ctrl-C'))
      return false
    }
    await expect(aborted.equals('never', look, true)).rejects.toThrow('Ctrl-C')
    expect(written).toEqual([])
  })
})
