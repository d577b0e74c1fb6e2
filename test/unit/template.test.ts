import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MeshError } from '../../src/errors.ts'
import { fieldsOf, parseDocument, pathOf } from '../../src/core/resources/index.ts'
import { isSite, isUpstream } from '../../src/core/slice.ts'
import { slice } from '../../src/core/slicing.ts'
import type { Envelope, GrantBody } from '../../src/core/envelope.ts'
import { HOSTILE } from '../support/injection.ts'
import { EVERYWHERE, renderStates, sliceOf, stateOf } from '../support/resources.ts'

const document = (kind: string, name: string, spec: object, zone = '*', workspace = 'default') => ({
  apiVersion: 'nxmesh/v1',
  kind,
  metadata: { name, zone, workspace },
  spec,
})
const statesOf = (...documents: object[]) =>
  documents.map((each) => {
    const resource = parseDocument(each)
    return stateOf(pathOf(resource), fieldsOf(resource))
  })
const template = (spec: object, zone = '*') => document('Template', 'web', spec, zone)
const site = (spec: object = {}, zone = 'eu') =>
  document('Site', 's', { hosts: ['a.example'], template: { name: 'web' }, ...spec }, zone)
const problemsOf = (...documents: object[]) => {
  const { resources, problems } = sliceOf(statesOf(...documents))
  expect(resources.filter(isSite)).toEqual([])
  return problems.map(({ path, code, message, hint = '' }) => [path, code, message, hint])
}
const specOf = (...documents: object[]) => {
  const { resources, problems } = sliceOf(statesOf(...documents))
  expect(problems).toEqual([])
  return resources.find(isSite)?.spec
}
const say = (body: string) => ({ r: { path: '/', return: { status: 200, body } } })

describe('a resource with a template', () => {
  test('is what the template says, where it says nothing itself; maps are merged by key', () => {
    const spec = specOf(
      template({
        site: {
          maxBodySize: '1m',
          timeouts: { read: '1s', send: '1s' },
          responseHeaders: { remove: ['X-One'] },
          routes: { ...say('template'), more: { path: '/more', return: { status: 200, body: 'more' } } },
        },
      }),
      site({
        timeouts: { read: '2s' },
        responseHeaders: { remove: ['X-Two'] },
        routes: say('site'),
      }),
    )
    expect(spec).toMatchObject({
      maxBodySize: '1m',
      timeouts: { read: '2s', send: '1s' },
      responseHeaders: { remove: ['X-Two'] },
      routes: { r: { return: { body: 'site' } }, more: { action: 'return', return: { body: 'more' } } },
    })
  })

  test('has its values in texts and keys; alone, a number stays a number; what is not given has its default', () => {
    const parameters = { host: {}, port: { default: 80 }, weight: { default: 1 } }
    const upstream = { endpoints: { '{{host}}:{{port}}': { weight: '{{weight}}' } } }
    const use = { template: { name: 'web', values: { host: '10.0.0.1', weight: 7 } } }
    const { resources, problems } = sliceOf(
      statesOf(template({ parameters, upstream }), document('Upstream', 'app', use)),
    )
    expect(problems).toEqual([])
    expect(resources.find(isUpstream)?.spec.endpoints).toMatchObject({ '10.0.0.1:80': { weight: 7 } })
  })

  test('is not filled in twice: what a value says is not looked at', () => {
    const spec = specOf(
      template({ parameters: { a: {}, b: { default: 'b' } }, site: { routes: say('{{a}} {{b}} {{ a }}') } }),
      site({ template: { name: 'web', values: { a: '{{b}}' } } }),
    )
    expect(spec?.routes['r']).toMatchObject({ return: { body: '{{b}} b {{ a }}' } })
  })

  test('goes by the nearest template, from its zone outward', () => {
    const both = [template({ site: { maxBodySize: '1m' } }), template({ site: { maxBodySize: '2m' } }, 'eu')]
    expect(specOf(...both, site())?.maxBodySize).toBe('2m')
    expect(specOf(...both, site({}, '*'))?.maxBodySize).toBe('1m')
  })

  test('counts more than the defaults of its zone', () => {
    const settings = document('ZoneSettings', 'settings', { defaults: { compression: {}, timeouts: { read: '9s' } } })
    const shop = { ...settings, metadata: { ...settings.metadata, workspace: 'default' } }
    const spec = specOf(shop, template({ site: { compression: { minLength: 5 } } }), site())
    expect(spec?.compression).toMatchObject({ minLength: 5 })
  })

  test('has another hash once the template has', () => {
    const hashOf = (size: string) =>
      sliceOf(statesOf(template({ site: { maxBodySize: size } }), site())).resources.find(isSite)?.hash
    expect(hashOf('1m')).toBe(hashOf('1m'))
    expect(hashOf('1m')).not.toBe(hashOf('2m'))
    const textOf = (size: string) =>
      renderStates(statesOf(template({ site: { maxBodySize: size } }), site()))
        .units.map(({ text }) => text)
        .join('')
    expect([textOf('1m'), textOf('2m')].map((text) => /client_max_body_size (\w+)/.exec(text)?.[1])).toEqual([
      '1m',
      '2m',
    ])
  })
})

describe('a problem of the resource, and of it alone', () => {
  const at = 'default/eu/site/s'
  test('no template', () => {
    expect(problemsOf(site())).toEqual([
      [at, 'reference', 'there is no template web', 'create a Template web in workspace default and zone eu or *'],
    ])
  })
  test('a template that means nothing', () => {
    const broken = stateOf('default/*/template/web', new Map([['site/routes/r/path', '/']]).set('nonsense', 'x'))
    const { resources, problems } = sliceOf([...statesOf(site(), site()).slice(0, 1), broken])
    expect(resources).toEqual([])
    expect(problems.map(({ path, code, message }) => [path, code, message])).toEqual([
      ['default/*/template/web', 'schema', 'spec.nonsense is not a known field'],
      [
        at,
        'reference',
        'its template default/*/template/web has a problem of its own: spec.nonsense is not a known field',
      ],
    ])
  })
  test.each([
    ['a value that is missing', { size: {} }, {}, 'spec.template.values.size is required', ''],
    [
      'no such parameter',
      { size: { default: '1m' } },
      { sise: '2m' },
      'spec.template.values.sise is no parameter of it',
      'did you mean size?',
    ],
    [
      'what the kind does not take',
      { size: {} },
      { size: 'huge' },
      'spec.maxBodySize is not a size',
      'write it like 512k, 10m or 1g; 0 is no limit',
    ],
  ])('%s', (_, parameters, values, message, hint) => {
    const made = template({ parameters, site: { maxBodySize: Object.hasOwn(parameters, 'size') ? '{{size}}' : '1m' } })
    expect(problemsOf(made, site({ template: { name: 'web', values } }))).toEqual([
      [at, 'schema', `with its template default/*/template/web: ${message}`, hint],
    ])
  })
  test('a template of another kind', () => {
    const [problem] = problemsOf(template({ upstream: { method: 'least_conn' } }), site())
    expect(problem?.[2]).toBe('with its template default/*/template/web: spec.template.name is a template of no site')
  })
  test('more than resources are allowed to be', () => {
    const routes = Object.fromEntries(
      Array.from({ length: 150 }, (_, index) => [
        `r${index}`,
        { path: `/${index}`, return: { status: 200, body: '{{a}}' } },
      ]),
    )
    const made = template({ parameters: { a: {} }, site: { routes } })
    const [problem] = problemsOf(made, site({ template: { name: 'web', values: { a: 'x'.repeat(1000) } } }))
    expect(problem?.[2]).toContain('spec.template makes over 131072 characters of it')
  })
})

describe('a template is refused', () => {
  const refusal = (spec: object): string => {
    try {
      parseDocument(template(spec))
    } catch (error) {
      if (error instanceof MeshError) return error.message
      throw error
    }
    throw new Error('it was taken')
  }
  test.each([
    [
      'hosts, which a grant may limit',
      { site: { hosts: ['a.example'] } },
      'spec.site.hosts does not stand in a template',
    ],
    [
      'privileged text',
      { site: { privileged: { serverSnippet: 'x;' } } },
      'spec.site.privileged does not stand in a template',
    ],
    ['a template', { site: { template: { name: 'web' } } }, 'spec.site.template does not stand in a template'],
    [
      'a name of a field that is made',
      { parameters: { a: {} }, site: { '{{a}}': {} } },
      'spec.site["{{a}}"] is not a known field',
    ],
    [
      'a field that no site has',
      { site: { routes: { r: { paht: '/' } } } },
      'spec.site.routes.r.paht is not a known field',
    ],
    ['what is no parameter', { site: { maxBodySize: '{{size}}' } }, 'spec.site uses {{size}}, which is no parameter'],
    ['both kinds', { site: {}, upstream: {} }, 'spec says both site and upstream'],
    ['neither', {}, 'spec says nothing'],
    ['no map', { site: 'x' }, 'spec.site is not a map'],
  ])('%s', (_, spec, message) => {
    expect(refusal(spec)).toBe(message)
  })

  test('hosts and privileged text stay refused however they got into storage', () => {
    for (const field of ['site/hosts/evil.example', 'site/privileged/serverSnippet']) {
      const stored = stateOf('default/*/template/web', new Map([[field, field.includes('hosts') ? true : 'x;']]))
      const [web] = statesOf(site())
      const grant = { body: { type: 'grant', role: 'editor', hosts: ['a.example'] } } as unknown as Envelope<GrantBody>
      const { resources } = slice([stored, web as typeof stored], EVERYWHERE, () => grant)
      expect(resources).toEqual([])
    }
  })
})

test('property: whatever the values are, it is as if the site had said it itself', () => {
  const value = fc.oneof(
    fc.constantFrom(...HOSTILE.filter((text) => text.length < 1000)),
    fc.string({ maxLength: 20 }),
    fc.integer(),
  )
  fc.assert(
    fc.property(value, value, (a, b) => {
      const made = (one: unknown, two: unknown) => ({
        responseHeaders: { set: { 'X-Made': `in ${String(one)} and ${String(two)}` } },
        routes: {
          r: { path: '/', static: { root: `/srv/${String(one)}` } },
          t: { path: `/t${String(two)}`, return: { status: 200 } },
        },
      })
      const by = template({ parameters: { a: {}, b: {} }, site: made('{{a}}', '{{b}}') })
      const rendered = (states: () => ReturnType<typeof statesOf>): string => {
        try {
          const { units } = renderStates(states())
          return units.map(({ text }) => text).join('')
        } catch (error) {
          if (error instanceof MeshError) return ''
          throw error
        }
      }
      const written = rendered(() => statesOf(document('Site', 's', { hosts: ['a.example'], ...made(a, b) })))
      const filled = rendered(() =>
        statesOf(by, document('Site', 's', { hosts: ['a.example'], template: { name: 'web', values: { a, b } } })),
      )
      // What may not stand in a value is refused there already.
      expect(['', written]).toContain(filled)
    }),
  )
})
