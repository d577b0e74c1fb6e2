/** The text of a secret on its way in and out of meshctl: from a file, standard input or a prompt, to a file or the terminal. Used by secret.ts. */

import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { SECRET_BYTES_MAX } from '../../core/secrets.ts'
import { MeshError } from '../../errors.ts'
import { usage, type Args, type Cli } from '../cli.ts'
import { writeNewFile } from '../new-file.ts'

/** Leaves no copy in memory that can be helped. */
export async function withText(text: Buffer, use: (text: Buffer) => Promise<void>): Promise<void> {
  try {
    await use(text)
  } finally {
    text.fill(0)
  }
}

export function randomText(args: Args): Buffer | undefined {
  const bytes = args.text('random')
  if (bytes === undefined) return undefined
  const count = /^\d{1,4}$/.test(bytes) ? Number(bytes) : 0
  if (count < 16 || count > 1024) throw usage('--random takes a number of bytes from 16 to 1024')
  if (args.text('filename') !== undefined) throw usage('--random and -f exclude each other')
  return Buffer.from(randomBytes(count).toString('base64url'))
}

export async function readText(cli: Cli, args: Args): Promise<Buffer> {
  const file = args.text('filename')
  const { stdin, promptHidden } = cli.host
  const text =
    file !== undefined && file !== '-'
      ? await readTextFile(cli.path(file), file)
      : file === undefined && promptHidden !== undefined
        ? Buffer.from(await promptHidden('Text (not shown), then Enter: '))
        : await readAll(stdin)
  if (text.length === 0) throw new MeshError('input_invalid', 'the text is empty', { field: '-f' })
  if (text.length > SECRET_BYTES_MAX) throw tooLong()
  return text
}

async function readTextFile(path: string, name: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (error) {
    throw new MeshError('input_invalid', `cannot read ${name}: ${(error as Error).message}`, { field: '-f' }, error)
  }
}

async function readAll(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of stream) {
    size += chunk.length
    if (size > SECRET_BYTES_MAX) throw tooLong()
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

function tooLong(): MeshError {
  return new MeshError('too_large', `the text is over ${SECRET_BYTES_MAX} bytes`, {
    field: '-f',
    hint: 'Split it into several secrets.',
  })
}

/** What drives a terminal, and what is no text at all. */
const UNPRINTABLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\ufffd]/

export async function put(cli: Cli, text: Buffer, file: string | undefined): Promise<void> {
  if (file !== undefined && file !== '-')
    return await writeNewFile({ path: cli.path(file), name: file, field: '-f' }, text)
  const words = text.toString('utf8')
  const isText = Buffer.from(words).equals(text) && (cli.host.stdout.isTTY !== true || !UNPRINTABLE.test(words))
  if (!isText) {
    throw new MeshError('input_invalid', 'the secret is not plain text', {
      hint: 'Write it to a file: meshctl secret get NAME -f FILE',
    })
  }
  cli.out(words)
}
