// Scores an image with a detector that `oddlens export` wrote, as a program without Python does.
//
//   c++ -std=c++17 -I $ONNXRUNTIME/include score.cpp -L $ONNXRUNTIME/lib -lonnxruntime -o score
//   ./score part.onnx image.ppm
//
// The image is a binary PGM (grey) or PPM (colour) of 8 bits, and has the size of the detector's input.
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

/// Refuses what the program cannot score, in words.
void require(bool condition, const std::string& problem) {
    if (!condition) throw std::runtime_error(problem);
}

/// A text in the metadata of the detector's file.
std::string metadata(const Ort::Session& session, const char* key) {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto value = session.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator);
    require(value != nullptr, std::string("the file has no ") + key + "; export it again");
    return value.get();
}

/// The pixels of a binary PGM or PPM image, which must have the shape (1, height, width, channels).
std::vector<std::uint8_t> read_pixels(const std::string& path, const std::vector<std::int64_t>& shape) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    std::int64_t width = 0, height = 0, largest = 0;
    file >> kind >> width >> height >> largest;
    file.get();  // the one white space after the header
    require(file && kind == (shape[3] == 1 ? "P5" : "P6") && height == shape[1] && width == shape[2] && largest == 255,
            path + ": is no image of the detector's size, channels and 8 bits");
    std::vector<std::uint8_t> pixels(shape[1] * shape[2] * shape[3]);
    file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
    require(bool(file), path + ": is cut short");
    return pixels;
}

int main(int count, char** arguments) try {
    require(count == 3, "usage: score part.onnx image.ppm");
    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR);
    Ort::Session session(environment, arguments[1], Ort::SessionOptions());
    const auto manifest = metadata(session, "oddlens"), decision = metadata(session, "oddlens.decision");
    require(manifest.find("\"tiling\":{") == std::string::npos, "the detector scores tiles; use oddlens");
    const std::string engine = "\"engine\":\"onnxruntime\"";
    require(manifest.find(engine) != std::string::npos, "the detector is calibrated for OpenVINO");
    const std::string key = "\"threshold\": ";  // the first one is that of all images
    const auto at = decision.find(key) + key.size();
    require(decision.compare(at, 4, "null") != 0, "the detector has a threshold for each group of images");
    const double threshold = std::stod(decision.substr(at));

    const auto input = session.GetInputTypeInfo(0);
    auto shape = input.GetTensorTypeAndShapeInfo().GetShape();  // images, height, width, channels
    const auto type = input.GetTensorTypeAndShapeInfo().GetElementType();
    require(type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "the detector scores images of 16 bits");
    shape[0] = 1;
    auto pixels = read_pixels(arguments[2], shape);
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto tensor = Ort::Value::CreateTensor<std::uint8_t>(memory, pixels.data(), pixels.size(), shape.data(), 4);
    const char *inputs[] = {"pixels"}, *outputs[] = {"anomaly_score"};
    const auto results = session.Run(Ort::RunOptions(), inputs, &tensor, 1, outputs, 1);
    const double score = *results[0].GetTensorData<float>();
    std::printf("{\"anomaly_score\": %.17g, \"threshold\": %.17g, \"verdict\": \"%s\"}\n", score, threshold,
                score > threshold ? "anomaly" : "normal");
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
}
