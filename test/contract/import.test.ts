/**
 * The proof of the importer: two nginx, one with a configuration as it was, one with what import and rendering make of it,
 * are asked the same.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { dirname, join, matchesGlob } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fieldsOf, pathOf } from '../../src/core/resources/index.ts'
import { importConfig } from '../../src/nginx/importing/import.ts'
import { readTree } from '../../src/nginx/importing/includes.ts'
import { TREES, type Probe } from '../support/import-trees.ts'
import { ask, freePort, nginxDirectory, serve, testGeneration } from '../support/real-nginx.ts'
import { renderStates, stateOf } from '../support/resources.ts'
import { waitFor } from '../support/wait.ts'

let backend: Server
beforeAll(async () => {
  backend = createServer((request, response) => {
    const { method, url = '', headers } = request
    const seen = ['host', 'x-real-ip', 'x-forwarded-for', 'x-part', 'upgrade'].map((name) => {
      // Those of NxMesh alone are told in the report.
      return name.startsWith('x-') && !url.includes('api') ? '' : `${name}=${String(headers[name] ?? '')}\n`
    })
    const status = Number(/status\/(\d+)/.exec(url)?.[1] ?? 200)
    if (url.includes('told')) {
      response.setHeader('location', 'http://app.internal/next')
      response.setHeader('set-cookie', ['a=1; Path=/app/x; Domain=app.internal', 'b=2; Path=/other'])
      response.setHeader('x-powered-by', 'tests')
    }
    request.resume().on('end', () => {
      response.writeHead(status, { 'x-backend': 'yes', 'content-type': 'text/plain' })
      response.end(`${method} ${url}\n${seen.join('')}`)
    })
  }).listen(0, '127.0.0.1')
  await once(backend, 'listening')
})
afterAll(async () => {
  backend.closeAllConnections()
  backend.close()
  await once(backend, 'close')
})

/** By time, by connection, or with the version of nginx in its own pages. */
const VARIES = new Set([
  'server',
  'date',
  'connection',
  'keep-alive',
  'etag',
  'content-length',
  'expires',
  'last-modified',
])

/** What both must say alike. */
async function answerOf(port: number, { host, path, body, method = 'GET', headers = {} }: Probe) {
  const answer = await ask({ port, path, method, headers: Object.assign({ host }, headers), agent: false }, body)
  const { location, ...told } = answer.headers
  const target = location === undefined ? undefined : new URL(location, `http://${host}/`)
  if (target?.port === String(port)) target.port = ''
  const headersTold = Object.entries(told).filter(([name]) => !VARIES.has(name))
  // nginx's own pages name its version where it is told to.
  const text = answer.body.replace(/nginx\/[\d.]+/g, 'nginx')
  return {
    probe: `${method} ${host} ${path}`,
    status: answer.status,
    location: target?.href,
    headers: Object.fromEntries(headersTold),
    text,
  }
}

test.each(TREES)('answers alike after an import: $name', async ({ files, probes }) => {
  const original = nginxDirectory(1)
  const [before, after] = [await freePort(), await freePort()]
  const imported = nginxDirectory(after)
  const { directory } = original.host
  const parts = { backend: (backend.address() as AddressInfo).port, directory }
  for (const [name, text] of Object.entries(files({ ...parts, port: before }))) {
    mkdirSync(dirname(join(directory, name)), { recursive: true })
    writeFileSync(join(directory, name), text)
  }
  const settings = `daemon off; pid ${join(directory, 'pid')}; error_log ${join(directory, 'error.log')};`
  const child = spawn('nginx', ['-p', `${directory}/`, '-c', join(directory, 'nginx.conf'), '-g', settings], {
    stdio: 'ignore',
  })
  const exited = once(child, 'exit')
  try {
    await waitFor(() => isOpen(before), {
      what: 'the original nginx to listen',
      timeoutMs: 10_000,
    })
    const wanted = new Map(Object.entries(files({ ...parts, port: after })).map(([name, text]) => [`/n/${name}`, text]))
    const tree = readTree({ path: '/n/nginx.conf', text: wanted.get('/n/nginx.conf') as string }, (pattern) =>
      [...wanted].filter(([path]) => matchesGlob(path, pattern)).map(([path, text]) => ({ path, text })),
    )
    const readFile = (path: string): string | undefined => {
      const own = path.startsWith('/n/') ? join(directory, path.slice(3)) : path
      return existsSync(own) ? readFileSync(own, 'utf8') : undefined
    }
    const { resources, secrets } = importConfig(tree, { workspace: 'default', zone: '*' }, { readFile })
    const sealed = secrets.map(({ secret, file }) => [`default/*/secret/${secret}`, readFile(file) as string] as const)
    const states = [
      ...resources.map((resource, index) => stateOf(pathOf(resource), fieldsOf(resource), index + 1)),
      ...sealed.map(([path]) => stateOf(path, new Map([['sealed', ['v', 'c']]]))),
    ]
    const { generation, problems } = renderStates(states, { host: imported.host, secrets: new Map(sealed) })
    expect(problems).toEqual([])
    expect(await testGeneration(imported.host, generation)).toEqual({ ok: true, words: '' })
    const served = await serve(imported.host, generation)
    try {
      const told = async (port: number) => {
        const answers = []
        for (const probe of probes) answers.push(await answerOf(port, probe))
        return answers
      }
      expect(probes.length).toBeGreaterThanOrEqual(20)
      expect(await told(after)).toEqual(await told(before))
    } finally {
      await served.stop()
    }
  } finally {
    child.kill('SIGTERM')
    await exited
    original.remove()
    imported.remove()
  }
})

async function isOpen(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  return await new Promise((resolve) => {
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
  }).then((isThere) => {
    socket.destroy()
    return isThere as boolean
  })
}
