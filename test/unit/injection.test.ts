import { expect, test } from 'vitest'
import { MeshError } from '../../src/errors.ts'
import { attempts, knownPatterns, renderAttempt, renderFull, type Attempt } from '../support/injection.ts'
import { readNginx, skeleton, type Directive } from '../support/nginx-text.ts'

const full = renderFull()
const benign = readNginx(full.text)

test('the full documents use every string field that the schemas have', () => {
  const used = new Set([...attempts()].map(({ pattern }) => pattern))
  expect(knownPatterns().filter((pattern) => !used.has(pattern))).toEqual([])
  expect(full.problems).toEqual([])
})

// Odd, so that over the seeds every text meets every place.
const SAMPLE = { every: 17, seed: Number(process.env['NXMESH_SEED'] ?? Date.now() % 1_000_000) }

test(
  `no text adds, removes or reshapes a directive: seed ${SAMPLE.seed} (NXMESH_SEED replays)`,
  { timeout: 60_000 },
  () => {
    const counts = { refused: 0, rendered: 0, reported: 0 }
    const broken: string[] = []
    for (const attempt of attempts(SAMPLE)) {
      const outcome = judge(attempt)
      if (outcome === 'broken') broken.push(attempt.title)
      else counts[outcome]++
    }
    expect(broken).toEqual([])
    // The test means nothing when everything, or nothing, is refused.
    expect(counts.refused).toBeGreaterThan(300)
    expect(counts.rendered).toBeGreaterThan(200)
    expect(counts.reported).toBeGreaterThan(0)
  },
)

function judge(attempt: Attempt): 'refused' | 'reported' | 'rendered' | 'broken' {
  let rendered: ReturnType<typeof renderAttempt>
  try {
    rendered = renderAttempt(attempt)
  } catch (error) {
    if (error instanceof MeshError && error.code === 'resource_invalid' && error.details.field !== undefined)
      return 'refused'
    throw error
  }
  const directives = readNginx(rendered.text)
  // Left out with a problem, or not selected for this node.
  if (rendered.problems.length > 0 || attempt.pattern.includes('nodeSelector')) return 'reported'
  if (skeleton(directives) === skeleton(benign)) return 'rendered'
  // A snippet may add what it likes, but the blocks around it stay the same.
  return attempt.pattern.includes('privileged') && names(directives) === names(benign) ? 'rendered' : 'broken'
}

/** Of the blocks: what a snippet of http says stands beside them. */
function names(directives: readonly Directive[]): string {
  return directives
    .filter(({ block }) => block !== undefined)
    .map(({ name }) => name)
    .join()
}
