/** What `meshctl help` prints, from the verbs' own descriptions. Pure. */

import type { OptionSpec, OptionSpecs, Verb } from './cli.ts'

/** Options that every verb takes. */
export const GLOBAL_OPTIONS: OptionSpecs = {
  api: {
    type: 'string',
    value: 'URL',
    description:
      'node to ask: http(s)://host:port or unix:/path (NXMESH_API; default ./data/api.sock, /var/lib/nxmesh/api.sock, else http://127.0.0.1:3000, with a pin https)',
  },
  key: {
    type: 'string',
    short: 'k',
    value: 'FILE',
    description:
      'operator key, which signs edits and the tokens for TCP (NXMESH_KEY; default ./data/mesh/owner.key; PRIVATE_KEY beats it)',
  },
  mesh: {
    type: 'string',
    value: 'ID',
    description:
      'mesh that is meant; nothing is signed for another (NXMESH_MESH_ID; default: that of the ticket of --pin, else the one that the key works in)',
  },
  ca: {
    type: 'string',
    value: 'FILE',
    description: 'authorities (PEM) that an https:// node must be certified by (NXMESH_CA)',
  },
  fingerprint: {
    type: 'string',
    value: 'SHA256',
    description: 'of the one certificate to believe of an https:// node (NXMESH_FINGERPRINT)',
  },
  pin: {
    type: 'string',
    multiple: true,
    value: 'KEY|TICKET',
    description: 'public key of the https:// node, or a join ticket that names it and the mesh (NXMESH_PIN)',
  },
  workspace: { type: 'string', short: 'w', value: 'NAME', description: 'workspace' },
  zone: { type: 'string', short: 'z', multiple: true, value: 'ZONE', description: 'zone such as eu.west, or *' },
  output: { type: 'string', short: 'o', value: 'FORMAT', description: 'table, wide, yaml or json' },
  'no-color': { type: 'boolean', description: 'no colours, even on a terminal' },
  help: { type: 'boolean', short: 'h', description: 'help for the verb' },
  version: { type: 'boolean', description: 'print the version' },
}

export function generalHelp(verbs: readonly Verb[]): string {
  const width = Math.max(...verbs.map(({ name }) => name.length))
  return [
    'meshctl signs edits and shows what the mesh makes of them.',
    '',
    'Usage: meshctl VERB [ARGUMENTS] [OPTIONS]',
    '',
    'Verbs:',
    ...verbs.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`),
    `  ${'help'.padEnd(width)}  help for a verb: meshctl help apply`,
    '',
    'Options of every verb:',
    ...optionLines(GLOBAL_OPTIONS),
    '',
    'Exit codes: 0 done, 2 wrong usage, 3 invalid input, 4 denied, 5 not found, 6 conflict, 7 try later, 8 not applied, 9 store,',
    '10 port in use, 11 nginx, 1 anything else. docs/cli.md tells more.',
    '',
  ].join('\n')
}

export function verbHelp({ summary, usage, details, options, examples }: Verb): string {
  return [
    `${summary[0]?.toUpperCase()}${summary.slice(1)}.`,
    '',
    ...usage.map((line, index) => `${index === 0 ? 'Usage:' : '      '} meshctl ${line}`),
    ...(details === undefined ? [] : ['', details]),
    ...(Object.keys(options).length === 0 ? [] : ['', 'Options:', ...optionLines(options)]),
    '',
    'Options of every verb:',
    ...optionLines(GLOBAL_OPTIONS),
    '',
    examples.length === 1 ? 'Example:' : 'Examples:',
    ...examples.map((example) => `  ${example}`),
    '',
  ].join('\n')
}

function optionLines(options: OptionSpecs): string[] {
  const heads = Object.entries(options).map(([name, spec]): [string, OptionSpec] => {
    const short = spec.short === undefined ? '    ' : `-${spec.short}, `
    return [`${short}--${name}${spec.value === undefined ? '' : ` ${spec.value}`}`, spec]
  })
  const width = Math.max(...heads.map(([head]) => head.length))
  return heads.map(([head, { description }]) => `  ${head.padEnd(width)}  ${description}`)
}
