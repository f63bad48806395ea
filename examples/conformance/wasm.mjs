// fastweights verify --implementation wasm.mjs: our own wasm device, seen as somebody else's. It has every rule, form and option.
import { wasmDevice } from 'fastweights'
import { adapterOf } from 'fastweights/claims'

export default adapterOf(await wasmDevice({ threads: 1 }))
