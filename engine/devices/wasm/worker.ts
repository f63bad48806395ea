/** The file a worker thread runs: it receives its setup, says that it is ready, and serves the pool. */
import { inNode } from '../../platform.ts'
import { serve, type WorkerSetup } from './thread.ts'

if (inNode) {
  const { parentPort, workerData } = await import('node:worker_threads')
  serve(workerData as WorkerSetup, () => parentPort!.postMessage('ready'))
} else {
  addEventListener('message', (event) => serve(event.data as WorkerSetup, () => postMessage('ready')), { once: true })
}
