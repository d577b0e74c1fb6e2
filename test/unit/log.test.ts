/** The log: levels per target, both formats, and that nothing from outside can forge a line or leak a key. */

import { anything, assert, dictionary, property, string } from 'fast-check'
import { describe, expect, test } from 'vitest'
import { keyPairFromSeed } from '../../src/core/envelope.ts'
import { MeshError } from '../../src/errors.ts'
import { createLog, parseLogLevel, type Log, type LogOptions } from '../../src/log.ts'

function capture(options: Partial<LogOptions> = {}): { log: Log; lines: string[] } {
  const lines: string[] = []
  const stream = { write: (line: string) => lines.push(line) }
  return { log: createLog({ level: 'INFO', format: 'json', stream, now: () => 0, ...options }), lines }
}

describe('log_level', () => {
  test.each([
    ['INFO', { replica: 'INFO', 'lib.libp2p': 'WARN' }],
    ['debug', { replica: 'DEBUG', 'lib.libp2p': 'WARN' }],
    ['=TRACE', { replica: 'TRACE', 'lib.libp2p': 'TRACE' }],
    ['nginx=DEBUG', { replica: 'INFO', nginx: 'DEBUG', 'nginx.apply': 'DEBUG', nginxes: 'INFO' }],
    ['WARN, nginx.apply=TRACE,lib=ERROR', { nginx: 'WARN', 'nginx.apply.swap': 'TRACE', lib: 'ERROR' }],
  ])('%s', (spec, expected) => {
    const levelOf = parseLogLevel(spec)
    expect(Object.fromEntries(Object.keys(expected).map((target) => [target, levelOf(target)]))).toEqual(expected)
  })

  test.each(['', 'LOUD', 'a=', '=', 'a=b=INFO', 'INFO,', 'a b=INFO'])('refuses "%s"', (spec) => {
    expect(() => parseLogLevel(spec)).toThrow(RangeError)
  })

  test('decides what is written, and what a child writes', () => {
    const { log, lines } = capture({ level: 'WARN,nginx=DEBUG' })
    log.info('no')
    log.warn('yes')
    const nginx = log.child('nginx').child('apply')
    nginx.debug('yes')
    nginx.trace('no')
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
      { time: '1970-01-01T00:00:00.000Z', level: 'WARN', target: '', message: 'yes' },
      { time: '1970-01-01T00:00:00.000Z', level: 'DEBUG', target: 'nginx.apply', message: 'yes' },
    ])
    expect([nginx.enabled('DEBUG'), nginx.enabled('TRACE')]).toEqual([true, false])
  })
})

test('text is for people, and chosen on a terminal', () => {
  const lines: string[] = []
  const stream = { write: (line: string) => lines.push(line), isTTY: true }
  const { log } = capture({ format: 'auto', stream })
  log.child('replica').warn('an edit was refused', { peer: 'ab', reason: 'too large', count: 2, gone: undefined })
  expect(lines).toEqual([
    '1970-01-01T00:00:00.000Z WARN  replica: an edit was refused peer=ab reason="too large" count=2\n',
  ])
})

test('errors show code, message and causes, and a stack only where no code says what it is', () => {
  const { log, lines } = capture()
  log.error('failed', { error: new MeshError('timeout', 'late', {}, new Error('socket')) })
  const { fields } = JSON.parse(lines[0] as string) as { fields: { error: Record<string, unknown> } }
  expect(fields.error).toMatchObject({
    code: 'timeout',
    message: 'late',
    cause: { message: 'socket', stack: expect.stringContaining('log.test') },
  })
  expect(fields.error).not.toHaveProperty('stack')
})

test('keys never appear', () => {
  const key = keyPairFromSeed(Buffer.alloc(32, 0xab))
  const cyclic: Record<string, unknown> = { seed: 'ab'.repeat(32) }
  cyclic['self'] = cyclic
  for (const format of ['json', 'text'] as const) {
    const { log, lines } = capture({ format })
    log.info('start', {
      key,
      bytes: key.seed,
      PRIVATE_KEY: 'ab'.repeat(32),
      nested: [{ privateKey: 'ab'.repeat(32) }],
      cyclic,
      map: new Map([['seed', 'abab']]),
    })
    expect(lines.join('')).not.toContain('abab')
    expect(lines.join('')).not.toContain('171,171')
    expect(lines.join('')).toContain(key.publicKey)
  }
})

test('one call is one line without control characters, whatever is logged; JSON can be read back', () => {
  assert(
    property(string({ unit: 'binary' }), dictionary(string({ unit: 'binary' }), anything()), (message, fields) => {
      for (const format of ['json', 'text'] as const) {
        const { log, lines } = capture({ format })
        log.info(message, fields)
        expect(lines).toHaveLength(1)
        expect(lines[0]).toMatch(/^[^\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]*\n$/)
        if (format === 'json') expect((JSON.parse(lines[0] as string) as { message: string }).message).toBe(message)
      }
    }),
    { numRuns: 300 },
  )
})

test('forged lines, terminal codes and endless values are defused', () => {
  for (const format of ['json', 'text'] as const) {
    const { log, lines } = capture({ format })
    log.info('hello\n1970-01-01T00:00:00.000Z ERROR forged', {
      name: '\u001b[2Jx\r\ny',
      big: 'x'.repeat(1e6),
      many: Array.from({ length: 1e4 }),
    })
    expect(lines).toHaveLength(1)
    expect(lines[0]?.trimEnd()).not.toMatch(/[\r\n\u001b]/)
    expect(lines[0]?.length).toBeLessThan(10_000)
  }
})
