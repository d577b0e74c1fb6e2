import { createHash } from 'node:crypto'
import * as noble from '@noble/ed25519'
import { describe, expect, test } from 'vitest'
import { canonical, type Json } from '../../src/core/canonical.ts'
import {
  LIMITS,
  ROLES,
  envelopeId,
  isSmallOrderKey,
  keyPairFromSeed,
  parseBody,
  parseEnvelope,
  signEnvelope,
  signingInput,
  verifySignature,
  type EditBody,
  type Envelope,
  type KeyPair,
} from '../../src/core/envelope.ts'
import { MeshError } from '../../src/errors.ts'
import { Scribe, keyOf } from '../support/histories.ts'
import { malleated, mixedOrderKey, SMALL_ORDER } from '../support/torsion.ts'

const root = keyOf('root')
const owner = keyOf('owner')
const editor = keyOf('editor')
const scribe = new Scribe()
const id = 'ab'.repeat(32)
const ids = (count: number): string[] =>
  Array.from({ length: count }, (_, index) => index.toString(16).padStart(64, '0'))

type Loose = Record<string, unknown>
const common = {
  v: 1,
  mesh: scribe.mesh,
  ws: 'default',
  by: owner.publicKey,
  grant: id,
  n: 1,
  prev: [],
  at: 1,
  note: '',
}
const EDIT: Loose = { ...common, type: 'edit', edits: [['default/eu/site/shop', [], [['set', '$', true]]]] }
const GRANT: Loose = {
  ...common,
  type: 'grant',
  subject: editor.publicKey,
  role: 'editor',
  zones: ['eu'],
  kinds: ['*'],
}
const REVOKE: Loose = { ...common, type: 'revoke', target: `grant/${id}`, keep: [] }
const GENESIS: Loose = { v: 1, type: 'genesis', name: 'home', roots: [root.publicKey], threshold: 1, next: '', at: 1 }
const ROOTSET: Loose = {
  ...common,
  type: 'rootset',
  ws: '*',
  roots: [owner.publicKey, root.publicKey].toSorted(),
  threshold: 1,
  next: '',
  keep: [],
}
const BODIES = [
  ['edit', EDIT],
  ['grant', GRANT],
  ['revoke', REVOKE],
  ['rootset', ROOTSET],
  ['genesis', GENESIS],
] as const

/** Signs any text, so that only its form can be at fault. */
function seal(bytes: string, keys: readonly KeyPair[] = [owner], mesh: string = scribe.mesh): Loose {
  const message = signingInput(mesh, envelopeId(bytes))
  return { bytes, sigs: Object.fromEntries(keys.map((key) => [key.publicKey, key.sign(message)])) }
}

function sealBody(body: Loose, keys?: readonly KeyPair[]): Loose {
  return seal(canonical(body as Json), keys)
}

/** What parsing says against it; fails unless that is a MeshError with a field. */
function refusal(wire: unknown, mesh: string | null = scribe.mesh): MeshError {
  const before = process.threadCpuUsage()
  try {
    parseEnvelope(wire, mesh ?? undefined)
  } catch (error) {
    if (!(error instanceof MeshError)) throw new Error('refused with another kind of error', { cause: error })
    expect(['envelope_invalid', 'too_large']).toContain(error.code)
    expect(error.details.field, error.message).toBeTypeOf('string')
    expect(error.message.length).toBeLessThan(500)
    expect(process.threadCpuUsage(before).user, 'in bounded CPU time, µs').toBeLessThan(1e6)
    return error
  }
  throw new Error('was accepted')
}

describe('what signEnvelope makes', () => {
  test.each(BODIES)('a %s parses to itself', (type, body) => {
    const wire = sealBody(body, [type === 'genesis' ? root : owner])
    const mesh = type === 'genesis' ? undefined : scribe.mesh
    const sealed =
      type === 'genesis' ? seal(wire['bytes'] as string, [root], envelopeId(wire['bytes'] as string)) : wire
    const envelope = parseEnvelope(sealed, mesh)
    expect(envelope.body).toEqual(body)
    expect(envelope.id).toBe(envelopeId(envelope.bytes))
    expect(envelope.size).toBe(Buffer.byteLength(envelope.bytes))
    expect(signEnvelope(envelope.body, [type === 'genesis' ? root : owner])).toEqual(envelope)
  })

  test('an id and a signature are those of the documented domains', () => {
    const { bytes, sigs, id: made } = scribe.genesis
    const hash = createHash('sha256').update('nxmesh/v1/id\0').update(bytes).digest()
    expect(made).toBe(hash.toString('hex'))
    const message = Buffer.concat([Buffer.from('nxmesh/v1/sig\0'), hash, Buffer.from([0]), hash])
    expect(
      noble.verify(Buffer.from(sigs[root.publicKey] as string, 'hex'), message, Buffer.from(root.publicKey, 'hex')),
    ).toBe(true)
  })

  test('a mesh does not take another mesh’s envelopes, nor any before its genesis', () => {
    const other = new Scribe({ name: 'other' })
    const wire = sealBody(EDIT)
    expect(refusal(wire, other.mesh).details.field).toBe('mesh')
    expect(refusal(wire, null).details.field).toBe('mesh')
    expect(refusal(other.genesis).details.field).toBe('mesh')
  })
})

describe('each field', () => {
  const others = {
    edit: ['subject', 'role', 'target', 'keep', 'edits2'],
    grant: ['edits', 'target', 'keep', 'rank'],
    revoke: ['edits', 'subject', 'zones'],
    rootset: ['edits', 'target', 'name'],
    genesis: ['mesh', 'by', 'n', 'ws'],
  }
  for (const [type, body] of BODIES) {
    for (const field of Object.keys(body)) {
      test(`${type}.${field} must be there and be right`, () => {
        const { [field]: removed, ...without } = body
        expect(removed).toBeDefined()
        expect(refusal(sealBody(without, [owner, root])).details.field).toBe(field)
        for (const wrong of [null, {}, [[]], -1, 'Ünfit name', 2 ** 40]) {
          if (field === 'at' && wrong === 2 ** 40) continue
          if (field === 'note' && wrong === 'Ünfit name') continue
          const named = refusal(sealBody({ ...body, [field]: wrong }, [owner, root])).details.field ?? ''
          // A wrong type or place may show in what it is checked against first.
          expect(
            [field, 'type', 'n', 'mesh', 'sigs', 'edits'].some((name) => named.startsWith(name)),
            named,
          ).toBe(true)
        }
      })
    }
    for (const field of [...others[type], '__proto__', 'constructor', 'toString', '']) {
      test(`${type} has no field ${JSON.stringify(field)}`, () => {
        const extended = Object.fromEntries([...Object.entries(body), [field, '1']])
        expect(refusal(sealBody(extended)).message).toContain(`is not a field of ${type}`)
      })
    }
  }

  test.each<[string, Loose, string]>([
    ['an unknown version', { ...EDIT, v: 2 }, 'v'],
    ['an unknown type', { ...EDIT, type: 'checkpoint' }, 'type'],
    ['a type of the prototype', { ...EDIT, type: 'toString' }, 'type'],
    ['an edit of all workspaces', { ...EDIT, ws: '*' }, 'ws'],
    ['n 0', { ...EDIT, n: 0 }, 'n'],
    ['n 2 without prev', { ...EDIT, n: 2 }, 'n'],
    ['n 1 with prev', { ...EDIT, prev: [id] }, 'n'],
    ['prev twice', { ...EDIT, n: 2, prev: [id, id] }, 'prev'],
    ['prev unsorted', { ...EDIT, n: 2, prev: ids(2).toReversed() }, 'prev'],
    ['upper-case hex', { ...EDIT, grant: 'AB'.repeat(32) }, 'grant'],
    ['a time in fractions', { ...REVOKE, at: '1' }, 'at'],
    ['a long note', { ...EDIT, note: 'é'.repeat(LIMITS.noteBytes / 2 + 1) }, 'note'],
    ['a role that is none', { ...GRANT, role: 'root' }, 'role'],
    ['no zone', { ...GRANT, zones: [] }, 'zones'],
    ['a zone that is none', { ...GRANT, zones: ['eu.*'] }, 'zones[0]'],
    ['zones unsorted', { ...GRANT, zones: ['us', 'eu'] }, 'zones'],
    ['no kind', { ...GRANT, kinds: [] }, 'kinds'],
    ['a field scope that is none', { ...GRANT, fields: ['/'] }, 'fields[0]'],
    ['an unknown quota', { ...GRANT, quota: { files: 1 } }, 'quota.files'],
    ['a negative quota', { ...GRANT, quota: { bytes: -1 } }, 'quota.bytes'],
    ['a quota of the prototype', { ...GRANT, quota: JSON.parse('{"__proto__":1}') as Loose }, 'quota.__proto__'],
    ['a short enc', { ...GRANT, enc: 'ab' }, 'enc'],
    ['a name that is none', { ...GRANT, name: 'edge 1' }, 'name'],
    ['a target of no form', { ...REVOKE, target: id }, 'target'],
    ['a target with more', { ...REVOKE, target: `grant/${id}/x` }, 'target'],
    ['a keep that is no id', { ...REVOKE, keep: ['x'] }, 'keep[0]'],
    ['a threshold above the roots', { ...GENESIS, threshold: 2 }, 'threshold'],
    ['a threshold above the roots that follow', { ...ROOTSET, threshold: 3 }, 'threshold'],
    ['a root set of one workspace', { ...ROOTSET, ws: 'default' }, 'ws'],
    ['a root set that others signed', { ...ROOTSET, roots: [owner.publicKey] }, 'sigs'],
    ['no roots', { ...GENESIS, roots: [] }, 'roots'],
    ['no edits', { ...EDIT, edits: [] }, 'edits'],
    ['an edit in two parts', { ...EDIT, edits: [['default/eu/site/a', []]] }, 'edits[0]'],
    ['a path that is none', { ...EDIT, edits: [['default/eu/site', [], [['set', '$', true]]]] }, 'edits[0][0]'],
    ['a path in another workspace', { ...EDIT, edits: [['shop/eu/site/a', [], [['set', '$', true]]]] }, 'edits[0][0]'],
    [
      'a resource twice',
      { ...EDIT, edits: [0, 1].map(() => ['default/eu/site/a', [], [['set', '$', true]]]) },
      'edits',
    ],
    ['a dep that is no id', { ...EDIT, edits: [['default/eu/site/a', ['x'], [['set', '$', true]]]] }, 'edits[0][1][0]'],
  ])('%s is refused', (_, body, field) => {
    expect(refusal(sealBody(body, [owner, root])).details.field).toBe(field)
  })

  const ops = (...list: unknown[]): Loose => ({ ...EDIT, edits: [['default/eu/site/a', [], list]] })
  test.each<[string, Loose]>([
    ['no operation', ops()],
    ['an operation that is none', ops('set')],
    ['an unknown verb', ops(['inc', 'a', 1])],
    ['set without value', ops(['set', 'a'])],
    ['set of null', ops(['set', 'a', null])],
    ['set of a map', ops(['set', 'a', {}])],
    ['set of a nested list', ops(['set', 'a', [[]]])],
    ['set with more', ops(['set', 'a', 1, 2])],
    ['del with a value', ops(['del', 'a', 1])],
    ['a field twice', ops(['set', 'a', 1], ['set', 'a', 2])],
    ['fields unsorted', ops(['set', 'b', 1], ['set', 'a', 2])],
    ['a field that is none', ops(['set', 'a//b', 1])],
    ['$ set to false', ops(['set', '$', false])],
    ['$ deleted and more', ops(['del', '$'], ['set', 'a', 1])],
    ['a list too long', ops(['set', 'a', Array(LIMITS.arrayItems + 1).fill(1)])],
    ['a string too long', ops(['set', 'a', 'é'.repeat(LIMITS.stringBytes / 2 + 1)])],
  ])('operations: %s is refused', (_, body) => {
    expect(refusal(sealBody(body)).details.field).toMatch(/^edits\[0\]\[2\]/)
  })

  test('what is at a limit passes, and one more does not', () => {
    const resources = (count: number): Loose => ({
      ...EDIT,
      edits: Array.from({ length: count }, (_, index) => [
        `default/eu/site/s${String(index).padStart(3, '0')}`,
        [],
        [['set', '$', true]],
      ]),
    })
    const fields = (count: number): Loose =>
      ops(...Array.from({ length: count }, (_, index) => ['set', `f${String(index).padStart(3, '0')}`, 1]))
    const deps = (count: number): Loose => ({ ...EDIT, edits: [['default/eu/site/a', ids(count), [['set', 'a', 1]]]] })
    const prev = (count: number): Loose => ({ ...EDIT, n: 2, prev: ids(count) })
    const keep = (count: number): Loose => ({ ...REVOKE, keep: ids(count) })
    const zones = (count: number): Loose => ({
      ...GRANT,
      zones: ids(count)
        .map((zone) => `z${zone.slice(-3)}`)
        .toSorted(),
    })
    const cases: [string, (count: number) => Loose, number][] = [
      ['edits', resources, LIMITS.resources],
      ['edits', fields, LIMITS.ops],
      ['edits[0][1]', deps, LIMITS.deps],
      ['prev', prev, LIMITS.prev],
      ['keep', keep, LIMITS.keep],
      ['zones', zones, LIMITS.scopeItems],
    ]
    for (const [field, make, limit] of cases) {
      expect(() => parseEnvelope(sealBody(make(limit)), scribe.mesh), field).not.toThrow()
      expect(refusal(sealBody(make(limit + 1))).details.field).toBe(field)
    }
    const strings = ops(['set', 'a', 'x'.repeat(LIMITS.stringBytes)], ['set', 'b', Array(LIMITS.arrayItems).fill('x')])
    expect(() => parseEnvelope(sealBody(strings), scribe.mesh)).not.toThrow()
  })

  test('every role and every optional field of a grant passes', () => {
    for (const role of ROLES) {
      const full = {
        ...GRANT,
        role,
        fields: ['$', 'hosts/'],
        hosts: ['*.example.com'],
        quota: { bytes: 1 },
        enc: id,
        name: 'edge-1',
      }
      expect(() => parseEnvelope(sealBody(full), scribe.mesh)).not.toThrow()
    }
  })
})

describe('size', () => {
  test('64 KiB pass and one byte more does not', () => {
    const value = (count: number): string => 'x'.repeat(count)
    const body = (last: number): Loose => ({
      ...EDIT,
      edits: [
        [
          'default/eu/site/a',
          [],
          Array.from({ length: 8 }, (_, index) => [
            'set',
            `f${index}`,
            value(index === 7 ? last : LIMITS.stringBytes - 32),
          ]),
        ],
      ],
    })
    const rest = LIMITS.bodyBytes - Buffer.byteLength(canonical(body(0) as Json))
    expect(parseEnvelope(sealBody(body(rest)), scribe.mesh).size).toBe(LIMITS.bodyBytes)
    const over = refusal(sealBody(body(rest + 1)))
    expect(over.code).toBe('too_large')
    expect(over.details.hint).toBeTruthy()
  })

  test.each([
    ['[', '['.repeat(60_000)],
    ['[]', '['.repeat(30_000) + ']'.repeat(30_000)],
    ['{"a":', `${'{"a":'.repeat(10_000)}1${'}'.repeat(10_000)}`],
    ['[{"a":', `${'[{"a":'.repeat(6_000)}1${'}]'.repeat(6_000)}`],
    ['digits', '1'.repeat(65_000)],
    ['one long string', `"${'\\u0041'.repeat(10_000)}"`],
    ['many keys', `{${Array.from({ length: 6_000 }, (_, index) => `"${index}":1`).join(',')}}`],
    ['a long unknown key', canonical({ ...EDIT, ['x'.repeat(50_000)]: 1 } as Json)],
    ['a long type', canonical({ ...EDIT, type: 'x'.repeat(50_000) })],
    ['a long version', canonical({ ...EDIT, v: 'x'.repeat(50_000) })],
  ])('60 KB of %s are refused without ado', (_, bytes) => {
    expect(refusal(seal(bytes)).code).toBe('envelope_invalid')
  })
})

describe('form', () => {
  const text = canonical(EDIT as Json)
  const numbered = canonical({ ...EDIT, at: 1000 })
  test.each<[string, string]>([
    ['a space', text.replace(':', ': ')],
    ['a trailing newline', `${text}\n`],
    ['a byte order mark', `\ufeff${text}`],
    ['keys in another order', text.replace(/^\{("at":1),(.*)\}$/, '{$2,$1}')],
    ['a key twice', text.replace('{', '{"at":1,')],
    ['__proto__ twice', text.replace('{', '{"__proto__":1,"__proto__":1,')],
    ['1e3', numbered.replace('1000', '1e3')],
    ['1000.0', numbered.replace('1000', '1000.0')],
    ['-0', numbered.replace('1000', '-0')],
    ['+1', numbered.replace('1000', '+1')],
    ['01', numbered.replace('1000', '01')],
    ['a fraction', numbered.replace('1000', '1.5')],
    ['more than is safe', numbered.replace('1000', '9007199254740993')],
    ['infinity', numbered.replace('1000', '1e999')],
    ['an escape that is not needed', text.replace('edit"', '\\u0065dit"')],
    ['an escaped slash', text.replace('default/eu', 'default\\/eu')],
    ['a lone surrogate, escaped', text.replace('"note":""', '"note":"\\ud800"')],
    ['a lone surrogate, raw', text.replace('"note":""', '"note":"\ud800"')],
    ['a raw control character', text.replace('"note":""', '"note":"\u0001"')],
    ['a comment', `${text}//`],
    ['two values', text + text],
    ['nothing', ''],
    ['null', 'null'],
    ['a number', '1'],
    ['a list', '[]'],
    ['NaN', numbered.replace('1000', 'NaN')],
  ])('%s is refused', (_, bytes) => {
    expect(bytes).not.toBe(text)
    expect(refusal(seal(bytes)).code).toBe('envelope_invalid')
  })

  test('no prefix of an envelope is one', () => {
    for (let length = 0; length < text.length; length += 1) {
      expect(() => parseBody(text.slice(0, length))).toThrow(MeshError)
    }
  })

  test('no envelope is one after any change of one character', () => {
    const wire = sealBody(EDIT) as { bytes: string; sigs: Record<string, string> }
    const classes = ['0', 'a', 'A', '"', '[', '}', ',', ':', '\\', ' ', '\u0000', 'é', '\ud800']
    for (let at = 0; at < wire.bytes.length; at += 1) {
      const other = classes[at % classes.length] as string
      if (wire.bytes[at] === other) continue
      refusal({ ...wire, bytes: wire.bytes.slice(0, at) + other + wire.bytes.slice(at + 1) })
    }
    const signature = wire.sigs[owner.publicKey] as string
    for (let at = 0; at < signature.length; at += 5) {
      const flipped = signature.slice(0, at) + (signature[at] === '0' ? '1' : '0') + signature.slice(at + 1)
      expect(refusal({ ...wire, sigs: { [owner.publicKey]: flipped } }).details.field).toBe('sigs')
    }
  })

  test.each<[string, unknown]>([
    ['nothing', undefined],
    ['null', null],
    ['a string', text],
    ['a list', [text]],
    ['no sigs', { bytes: text }],
    ['sigs as a list', { bytes: text, sigs: [] }],
    ['bytes as an object', { bytes: EDIT, sigs: {} }],
    ['no signature', { bytes: text, sigs: {} }],
    ['a signature that is a number', { bytes: text, sigs: { [owner.publicKey]: 1 } }],
    ['a signature that is short', { bytes: text, sigs: { [owner.publicKey]: 'ab' } }],
    ['a signature by __proto__', { bytes: text, sigs: JSON.parse('{"__proto__":"ab"}') as unknown }],
    ['a signature of a stranger alone', seal(text, [editor])],
    ['a second signature', seal(text, [owner, editor])],
    [
      'seventeen signatures',
      seal(
        text,
        Array.from({ length: 17 }, (_, index) => keyOf(`signer ${index}`)),
      ),
    ],
    ['a signature for another mesh', seal(text, [owner], id)],
    ['a signer of a megabyte', { bytes: text, sigs: { [owner.publicKey]: 'ab', ['x'.repeat(1e6)]: 'ab' } }],
  ])('a wire form with %s is refused', (_, wire) => {
    expect(refusal(wire).code).toBe('envelope_invalid')
  })

  test('a root operation takes co-signatures, whose order does not matter', () => {
    const body = { ...GRANT, grant: scribe.mesh } as Loose
    const wire = sealBody(body, [owner, root])
    const { bytes, sigs } = wire as { bytes: string; sigs: Record<string, string> }
    const turned = { bytes, sigs: Object.fromEntries(Object.entries(sigs).toReversed()) }
    expect(parseEnvelope(turned, scribe.mesh)).toEqual(parseEnvelope(wire, scribe.mesh))
    expect(Object.keys(parseEnvelope(turned, scribe.mesh).sigs)).toEqual(Object.keys(sigs).toSorted())
  })
})

// ---------------------------------------------------------------------------------------------- the signature rule

function answers(key: string, message: Uint8Array, signature: string): { ours: boolean; noble: boolean } {
  const zip215 = noble.verify(Buffer.from(signature, 'hex'), message, Buffer.from(key, 'hex'), { zip215: true })
  return { ours: verifySignature(key, message, signature), noble: zip215 }
}

describe('the signature rule is ZIP-215, whatever the platform’s library says', () => {
  const message = Buffer.from('Zcash')

  test('every small-order key with every small-order R and s = 0', () => {
    for (const key of SMALL_ORDER) {
      for (const commitment of SMALL_ORDER) {
        const signature = commitment + '00'.repeat(32)
        expect(answers(key, message, signature), `${key} ${commitment}`).toEqual({ ours: true, noble: true })
      }
    }
  })

  test('keys and nonces of mixed order', () => {
    for (const keyTorsion of SMALL_ORDER) {
      for (const nonceTorsion of SMALL_ORDER.filter((_, index) => index % 3 === 0)) {
        const { publicKey: key, sign } = mixedOrderKey(keyTorsion, nonceTorsion)
        const signature = sign(message)
        expect(answers(key, message, signature)).toEqual({ ours: true, noble: true })
        expect(answers(key, Buffer.from('another'), signature)).toEqual({ ours: false, noble: false })
      }
    }
  })

  test('a scalar at or above the group order, a point off the curve and plain rubbish are refused', () => {
    const { publicKey: key, sign } = mixedOrderKey(SMALL_ORDER[2] as string, SMALL_ORDER[2] as string)
    const signature = sign(message)
    expect(answers(key, message, signature)).toEqual({ ours: true, noble: true })
    expect(answers(key, message, malleated(signature))).toEqual({ ours: false, noble: false })
    const offCurve = `02${'00'.repeat(31)}`
    expect(answers(offCurve, message, signature)).toEqual({ ours: false, noble: false })
    expect(answers(key, message, offCurve + signature.slice(64))).toEqual({ ours: false, noble: false })
    expect(verifySignature('', message, signature)).toBe(false)
    expect(verifySignature(key, message, '')).toBe(false)
    expect(verifySignature(key.toUpperCase(), message, signature)).toBe(false)
  })

  test('seeds give the keys and signatures of RFC 8032', () => {
    const seed = Buffer.from('9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60', 'hex')
    const pair = keyPairFromSeed(seed)
    expect(pair.publicKey).toBe('d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a')
    expect(pair.sign(new Uint8Array())).toBe(
      'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
    )
  })

  test('a key of small order is never granted, nor made a root', () => {
    for (const key of SMALL_ORDER) {
      expect(isSmallOrderKey(key)).toBe(true)
      expect(refusal(sealBody({ ...GRANT, subject: key })).details.field).toBe('subject')
      expect(refusal(sealBody({ ...GENESIS, roots: [key] }, [root])).details.field).toBe('roots[0]')
    }
    expect(isSmallOrderKey(owner.publicKey)).toBe(false)
    expect(isSmallOrderKey(`02${'00'.repeat(31)}`), 'no point at all').toBe(true)
  })
})

test('an envelope’s edits are typed as they parse', () => {
  const envelope = parseEnvelope(sealBody(EDIT), scribe.mesh) as Envelope<EditBody>
  expect(envelope.body.edits[0]?.[0]).toBe('default/eu/site/shop')
})
