/** What a node concludes of an upstream's health: tables, and properties over arbitrary courses of events. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { afterProbe, probePauseMs, UNCHECKED } from '../../src/upstreams/judging/checks.ts'
import { Circuit, type CircuitRule } from '../../src/upstreams/judging/circuit.ts'
import { Judge, type JudgeRules } from '../../src/upstreams/judging/judge.ts'
import { Outliers, type OutlierRule } from '../../src/upstreams/judging/outliers.ts'

const CHECK = { healthyThreshold: 2, unhealthyThreshold: 3 }
const OUTLIERS: OutlierRule = {
  consecutive5xx: 3,
  errorRatePercent: undefined,
  minRequests: 10,
  intervalMs: 1_000,
  baseMs: 1_000,
  maxMs: 8_000,
  maxPercent: 50,
}
const CIRCUIT: CircuitRule = {
  errorRatePercent: 50,
  minRequests: 4,
  windowMs: 1_000,
  baseMs: 1_000,
  maxMs: 16_000,
  halfOpenRequests: 2,
}

describe('checks', () => {
  const after = (results: string) =>
    results.split('').reduce((state, result) => afterProbe(state, result === '+', CHECK), UNCHECKED).isHealthy

  test.each([
    ['', true],
    ['--', true],
    ['---', false],
    ['--+--', true],
    ['---+', false],
    ['---+-+', false],
    ['---++', true],
  ])('%s leaves it healthy: %s', (results, isHealthy) => {
    expect(after(results)).toBe(isHealthy)
  })

  test('changes no oftener than results in a row allow, whatever comes', () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { maxLength: 200 }), (results) => {
        let changes = 0
        let state = UNCHECKED
        for (const passed of results) {
          const next = afterProbe(state, passed, CHECK)
          if (next.isHealthy !== state.isHealthy) changes += 1
          state = next
        }
        expect(changes).toBeLessThanOrEqual(Math.ceil((2 * results.length) / (2 + 3)))
      }),
    )
  })

  test('a pause differs from the interval by the jitter at most', () => {
    expect([0, 0.5, 1].map((random) => probePauseMs(1_000, 20, () => random))).toEqual([800, 1_000, 1_200])
  })
})

describe('outliers', () => {
  const four = () => {
    const outliers = new Outliers()
    outliers.follow(['a', 'b', 'c', 'd'])
    return outliers
  }
  const fail = (outliers: Outliers, address: string, now: number, count = 3, rule = OUTLIERS) => {
    for (let each = 0; each < count; each += 1) outliers.answered(address, true, now, now, rule)
  }

  test('errors in a row take an endpoint out, an answer between them does not', () => {
    const outliers = four()
    fail(outliers, 'a', 0, 2)
    outliers.answered('a', false, 0, 0, OUTLIERS)
    fail(outliers, 'a', 0, 2)
    expect(outliers.ejected).toEqual([])
    fail(outliers, 'a', 0, 1)
    expect(outliers.ejected).toEqual(['a'])
  })

  test('each further time is longer, up to a limit, and shorter again after as long a time without', () => {
    const outliers = four()
    const lengths: number[] = []
    let now = 0
    const ejectFor = () => {
      fail(outliers, 'a', now)
      const from = now
      while (outliers.ejected.length > 0) outliers.turn((now += 100), OUTLIERS)
      lengths.push(now - from)
    }
    for (let times = 0; times < 5; times += 1) ejectFor()
    expect(lengths).toEqual([1_000, 2_000, 4_000, 8_000, 8_000])
    outliers.turn((now += 16_000), OUTLIERS)
    ejectFor()
    expect(lengths.at(-1)).toBe(8_000)
    outliers.turn((now += 100_000), OUTLIERS)
    ejectFor()
    expect(lengths.at(-1)).toBe(1_000)
  })

  test('at most the share of the endpoints is out at once', () => {
    const outliers = four()
    for (const address of ['a', 'b', 'c', 'd']) fail(outliers, address, 0)
    expect(outliers.ejected).toEqual(['a', 'b'])
  })

  test('the rate counts when there are enough answers, the worst first', () => {
    const rule = { ...OUTLIERS, consecutive5xx: 0, errorRatePercent: 50, maxPercent: 25 }
    const outliers = four()
    outliers.turn(0, rule)
    fail(outliers, 'a', 10, 9, rule)
    for (let each = 0; each < 20; each += 1) {
      outliers.answered('b', each % 2 === 0, 10, 10, rule)
      outliers.answered('c', each % 4 !== 0, 10, 10, rule)
      outliers.answered('d', each % 4 === 0, 10, 10, rule)
    }
    outliers.turn(1_000, rule)
    expect(outliers.ejected).toEqual(['c'])
  })

  test('what was asked before an endpoint came back does not take it out again', () => {
    const outliers = four()
    fail(outliers, 'a', 0)
    outliers.turn(1_000, OUTLIERS)
    for (let each = 0; each < 5; each += 1) outliers.answered('a', true, 900, 1_100, OUTLIERS)
    expect(outliers.ejected).toEqual([])
  })
})

describe('circuit', () => {
  const serve = (circuit: Circuit, answers: string, now: number) => {
    for (const answer of answers) circuit.answered(answer === '-', now, now, CIRCUIT)
  }

  test('opens at the rate with enough requests, is tried after its time, and closes when probes pass', () => {
    const circuit = new Circuit()
    serve(circuit, '---', 0)
    expect(circuit.state).toBe('closed')
    serve(circuit, '+-', 0)
    expect(circuit.state).toBe('open')
    circuit.turn(999)
    expect(circuit.state).toBe('open')
    circuit.turn(1_000)
    expect(circuit.state).toBe('half_open')
    circuit.probed(true, 1_000, CIRCUIT)
    expect(circuit.state).toBe('half_open')
    circuit.probed(true, 1_100, CIRCUIT)
    expect(circuit.state).toBe('closed')
  })

  test('a probe that fails opens it again, for twice as long each time, up to a limit', () => {
    const circuit = new Circuit()
    serve(circuit, '----', 0)
    let now = 0
    const lengths = Array.from({ length: 6 }, () => {
      const from = now
      while (circuit.state === 'open') circuit.turn((now += 100))
      circuit.probed(true, now, CIRCUIT)
      circuit.probed(false, now, CIRCUIT)
      return now - from
    })
    expect(lengths).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 16_000])
  })

  test('errors that are older than the window are forgotten', () => {
    const circuit = new Circuit()
    serve(circuit, '---', 0)
    serve(circuit, '-', 1_001)
    expect(circuit.state).toBe('closed')
  })

  test('answers to what was asked before it closed do not open it', () => {
    const circuit = new Circuit()
    serve(circuit, '----', 0)
    circuit.turn(1_000)
    for (const at of [1_000, 1_000]) circuit.probed(true, at, CIRCUIT)
    for (let each = 0; each < 9; each += 1) circuit.answered(true, 500, 1_100, CIRCUIT)
    expect(circuit.state).toBe('closed')
  })

  test('does not flap: openings are as few as their times allow, whatever backend and probes do', () => {
    const event = fc.record({
      wait: fc.integer({ min: 0, max: 400 }),
      kind: fc.constantFrom('fail', 'serve', 'pass', 'miss'),
    })
    fc.assert(
      fc.property(fc.array(event, { maxLength: 300 }), (events) => {
        const circuit = new Circuit()
        let now = 0
        let openings = 0
        for (const { wait, kind } of events) {
          now += wait
          circuit.turn(now)
          const before = circuit.state
          if (kind === 'fail' || kind === 'serve') serve(circuit, (kind === 'fail' ? '-' : '+').repeat(4), now)
          else circuit.probed(kind === 'pass', now, CIRCUIT)
          if (circuit.state === 'open' && before !== 'open') openings += 1
        }
        expect(openings).toBeLessThanOrEqual(1 + now / CIRCUIT.baseMs)
      }),
    )
  })

  test('a backend that is never well makes it open ever more seldom', () => {
    const circuit = new Circuit()
    let openings = 0
    for (let now = 0; now < 160_000; now += 50) {
      const before = circuit.state
      circuit.turn(now)
      // Probes pass, such as those that only connect, and clients get errors.
      circuit.probed(true, now, CIRCUIT)
      serve(circuit, '-', now)
      if (circuit.state === 'open' && before !== 'open') openings += 1
    }
    expect(openings).toBeLessThanOrEqual(4 + 160_000 / CIRCUIT.maxMs)
  })
})

describe('judge', () => {
  const ADDRESSES = ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80', '10.0.0.4:80']
  const rules: JudgeRules = { check: CHECK, outliers: OUTLIERS, circuit: CIRCUIT, panicPercent: 0 }
  const judgeOf = (changes: Partial<JudgeRules> = {}, addresses = ADDRESSES) => {
    const judge = new Judge({ ...rules, ...changes })
    judge.follow({ ...rules, ...changes }, addresses)
    return judge
  }
  const sicken = (judge: Judge, addresses: readonly string[]) => {
    for (const address of addresses) for (let each = 0; each < 3; each += 1) judge.checked(address, false)
  }

  test('the last endpoint is never ejected', () => {
    const judge = judgeOf()
    sicken(judge, ADDRESSES.slice(0, 3))
    expect(judge.ejected).toEqual(ADDRESSES.slice(0, 3))
    sicken(judge, ADDRESSES)
    expect([judge.ailing, judge.ejected]).toEqual([ADDRESSES, []])
  })

  test('with too few that are well, all are used', () => {
    const judge = judgeOf({ panicPercent: 50 })
    sicken(judge, ADDRESSES.slice(0, 2))
    expect(judge.ejected).toHaveLength(2)
    sicken(judge, ADDRESSES.slice(0, 3))
    expect(judge.ejected).toEqual([])
  })

  test('an endpoint that is gone is forgotten, the others are not', () => {
    const judge = judgeOf()
    sicken(judge, ADDRESSES.slice(0, 2))
    judge.follow(rules, ADDRESSES.slice(1))
    judge.follow(rules, ADDRESSES)
    expect(judge.ejected).toEqual([ADDRESSES[1]])
  })

  test('without a rule nothing is concluded from what it is about', () => {
    const judge = judgeOf()
    sicken(judge, ADDRESSES.slice(0, 1))
    for (let each = 0; each < 9; each += 1) judge.served(true, 0, 0)
    expect([judge.ejected.length, judge.circuit]).toEqual([1, 'open'])
    judge.follow({ check: undefined, outliers: undefined, circuit: undefined, panicPercent: 0 }, ADDRESSES)
    expect([judge.ejected.length, judge.circuit]).toEqual([0, 'closed'])
  })

  test('an endpoint remains whatever happens', () => {
    const event = fc.record({
      address: fc.constantFrom(...ADDRESSES),
      wait: fc.integer({ min: 0, max: 500 }),
      kind: fc.constantFrom('checked', 'answered', 'served', 'tried', 'follow'),
      passed: fc.boolean(),
      panicPercent: fc.integer({ min: 0, max: 100 }),
    })
    fc.assert(
      fc.property(fc.array(event, { maxLength: 200 }), (events) => {
        const judge = judgeOf()
        let now = 0
        for (const { address, wait, kind, passed, panicPercent } of events) {
          now += wait
          judge.turn(now)
          if (kind === 'checked') judge.checked(address, passed)
          else if (kind === 'answered') judge.answered(address, !passed, now, now)
          else if (kind === 'served') judge.served(!passed, now, now)
          else if (kind === 'tried') judge.tried(passed, now)
          else judge.follow({ ...rules, panicPercent }, passed ? ADDRESSES : [address])
          expect(judge.ejected.length).toBeLessThan(judge.addresses.length)
          expect(judge.addresses).toEqual(expect.arrayContaining([...judge.ejected]))
        }
      }),
    )
  })
})
