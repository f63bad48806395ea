/** The process of one contender of the matmul benchmark. */
import { serve } from './child.mjs'
import { product } from './product.mjs'

serve(product)
