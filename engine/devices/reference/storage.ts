export interface RefStorage {
  data: Float64Array | Int32Array
}
