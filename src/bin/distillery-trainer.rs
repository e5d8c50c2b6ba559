fn main() {
    println!("{:?}", tch::Tensor::zeros([2], (tch::Kind::Float, tch::Device::Cpu)));
}
