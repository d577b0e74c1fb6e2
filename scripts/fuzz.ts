/**
 * `npm run fuzz -- --target render [--documents N] [--seed S] [--fields REGEX] [--no-nginx] [--no-shrink] [--json]`: hostile texts in every string field, rendered
 * and read back by nginx's rules, and some of them by nginx itself where there is one. Prints the seed and what was
 * tried; exits with 1 at the first text that leaves its place, and says how to replay it.
 */

import { spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { parseDocument } from '../src/core/resources/index.ts'
import type { HostLayout } from '../src/nginx/rendering/host-layout.ts'
import type { Document } from '../test/support/injection.ts'
import { freePort, nginxDirectory, testGeneration } from '../test/support/real-nginx.ts'
import { emptyTally, fuzzRendering, renderSelected, statesFor, type Tally } from '../test/support/render-fuzz.ts'

const USAGE =
  'usage: npm run fuzz -- --target render [--documents N] [--seed S] [--fields REGEX] [--no-nginx] [--no-shrink] [--json]'
/** What one seed tries: a failure is found again with its batch alone. */
const BATCH = 500
const EVERY_FIELD = new RegExp('').source
/** Fewer documents than this say nothing about which fields are tried. */
const FIELDS_FROM = 10_000

function integer(name: string, text: string | undefined, fallback: number): number {
  if (text === undefined) return fallback
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`--${name} must be a whole number, not "${text}"`)
  return value
}

function settingsOf(argv: readonly string[]) {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      target: { type: 'string' },
      documents: { type: 'string' },
      seed: { type: 'string' },
      fields: { type: 'string', default: '' },
      'no-nginx': { type: 'boolean', default: false },
      'no-shrink': { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
    },
  })
  if (values.target !== 'render') throw new RangeError(`--target must be render, not "${values.target ?? ''}"`)
  return {
    documents: integer('documents', values.documents, 100_000),
    seed: integer('seed', values.seed, Date.now() % 1_000_000_000),
    json: values.json,
    fields: new RegExp(values.fields),
    isAlone: values['no-nginx'],
    shrinks: !values['no-shrink'],
  }
}

/** Why nginx refuses what a batch rendered to, all in one generation; empty when it takes it, be it with a warning. */
async function judgedByNginx(host: HostLayout, documents: readonly Document[]): Promise<string> {
  const states = documents.flatMap((document, index) => {
    const resource = parseDocument(document)
    // Addresses of other machines cannot be bound here; names and hosts are made different from each other.
    const { listeners: _, nodeSelector: __, privileged: ___, ...spec } = resource.spec
    const own = resource.kind === 'Site' ? { ...spec, hosts: [`n${index}.example`] } : spec
    const name = resource.kind === 'ZoneSettings' ? resource.metadata.name : `n${index}`
    return statesFor({ ...resource, metadata: { ...resource.metadata, name, zone: '*' }, spec: own })
  })
  const unique = [...new Map(states.map((state) => [state.path, state])).values()]
  const { words } = await testGeneration(host, renderSelected(unique, { host }).generation)
  return words.replace(/^.*\[warn\].*\n?/gm, '')
}

async function run(
  { documents, seed, fields, isAlone, shrinks }: ReturnType<typeof settingsOf>,
  tally: Tally,
): Promise<{ tests: number }> {
  const hasNginx = !isAlone && spawnSync('nginx', ['-v']).error === undefined
  const { host, remove } = nginxDirectory(await freePort())
  let tests = 0
  try {
    for (let done = 0; done < documents; done += BATCH) {
      const batchSeed = seed + done / BATCH
      const count = Math.min(BATCH, documents - done)
      const replay = `replay: npm run fuzz -- --target render --seed ${batchSeed} --documents ${count}`
      const rendered: Document[] = []
      try {
        fuzzRendering(batchSeed, count, tally, { fields, shrinks, onRendered: (document) => rendered.push(document) })
        const words = hasNginx ? await judgedByNginx(host, rendered.slice(-50)) : ''
        if (words !== '') throw new Error(`nginx refuses what was rendered: ${words}`)
      } catch (error) {
        throw new Error(`${(error as Error).message}\n${replay}`, { cause: error })
      }
      if (hasNginx) tests++
    }
  } finally {
    remove()
  }
  return { tests }
}

async function main(argv: readonly string[]): Promise<number> {
  let settings
  try {
    settings = settingsOf(argv)
  } catch (error) {
    console.error(`${(error as Error).message}\n${USAGE}`)
    return 2
  }
  const { documents, seed, json } = settings
  console.error(`${documents} documents from seed ${seed}`)
  const tally = emptyTally()
  const startedAt = performance.now()
  try {
    const { tests } = await run(settings, tally)
    const seconds = (performance.now() - startedAt) / 1000
    const { rendered, reported } = tally
    const perSecond = Math.round(documents / seconds)
    const fields = Object.fromEntries(tally.fields)
    if (json) console.log(JSON.stringify({ documents, seed, seconds, perSecond, rendered, reported, tests, fields }))
    else {
      for (const [field, { tried, taken }] of tally.fields)
        console.log(`${field.padEnd(52)}${tried} tried, ${taken} taken`)
      console.log(
        `${rendered} of ${documents} documents took hostile text and kept their shape, ${reported} were left out`,
      )
      console.log(`${perSecond} documents/s; nginx -t took ${tests} generations`)
    }
    const untried = [...tally.fields].filter(([, { tried }]) => tried === 0).map(([field]) => field)
    if (documents < FIELDS_FROM || settings.fields.source !== EVERY_FIELD || untried.length === 0) return 0
    console.error(`never tried: ${untried.join(', ')}`)
    return 1
  } catch (error) {
    console.error((error as Error).message)
    return 1
  }
}

process.exitCode = await main(process.argv.slice(2))
