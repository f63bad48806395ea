/** What the system says of what goes wrong, in words. By itself: whoever reads a file needs nothing else of what fetches texts. */
const reasons: Record<string, string> = {
  ENOENT: 'no such file or folder',
  EISDIR: 'it is a folder',
  ENOTDIR: 'a part of the path is a file, not a folder',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  ENOSPC: 'no space left on the device',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file is larger than the system allows',
  EROFS: 'the file system is read-only',
  ERR_FS_FILE_TOO_LARGE: 'the file is too large (over 2 GiB)',
}

/** What went wrong, in a few words; a failed `fetch` hides it in its cause. */
export function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if (error.cause instanceof Error) return reason(error.cause)
  const { code, message } = error as NodeJS.ErrnoException
  const words = /^[A-Z\d_]+: ([^,\n]+), /.exec(message)?.[1] // of Node's 'CODE: words, call path'
  return (code !== undefined && reasons[code]) || words || (message || String(code)).split('\n')[0]
}
